"""Pools and volumes as libvirt writes them: order, indentation, what is left out.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from imagemgr.model import (
    FEATURES,
    Adapter,
    Auth,
    Encryption,
    FcAdapter,
    Part,
    PciAddress,
    Permissions,
    Pool,
    PoolSource,
    Room,
    Secret,
    Traits,
    Volume,
    VolumeTarget,
)
from imagemgr.xml.pools import NAMESPACES, OPTIONS
from imagemgr.xml.values import format_uuid

_SIGNS = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&apos;"))
# libvirt writes these as they are; a reader would take them for blanks in an attribute, or for line ends.
_BREAKS = (("\n", "&#10;"), ("\t", "&#9;"), ("\r", "&#13;"))
NOTHING = Room()


@dataclass(frozen=True, slots=True)
class Tag:
    """An element to be written.  Attributes None are left out; children None: <tag/>."""

    name: str
    attributes: dict[str, str | int | None]
    children: tuple[Tag | None, ...] | None = None
    text: str | None = None


Parts = Iterable[Tag | None]


def tag(name: str, children: Parts | None = None, /, **attributes: str | int | None) -> Tag:
    """An element with these attributes."""
    return Tag(name, attributes, None if children is None else tuple(children))


def write_pool(pool: Pool, room: Room = NOTHING) -> str:
    """The document, with what the pool has (nothing when it is not active)."""
    prefix = pool.type.traits.options
    attributes: dict[str, str | int | None] = {"type": pool.type}
    if pool.options:
        attributes[f"xmlns:{prefix}"] = NAMESPACES[prefix]
    return _document(Tag("pool", attributes, tuple(_pool_parts(pool, room))))


def write_source(source: PoolSource, traits: Traits) -> str:
    """<source> alone, as one of those that were found."""
    return _document(_source(source, traits))


def write_volume(volume: Volume, *, request: bool = False) -> str:
    """The document; as a request it says also what is asked for but never shown, and no more than was said."""
    return _document(tag("volume", _volume_parts(volume, request), type=volume.type))


def _document(root: Tag) -> str:
    return "\n".join(_lines(root, 0)) + "\n"


# -- pools


def _pool_parts(pool: Pool, room: Room) -> Iterator[Tag | None]:
    traits = pool.type.traits
    yield _text("name", pool.name)
    yield _text("uuid", format_uuid(pool.uuid)) if pool.uuid else None
    for name in ("capacity", "allocation", "available"):
        yield _bytes(name, getattr(room, name))
    yield tag("features", [tag("cow", state=_yes_no(pool.cow))]) if pool.cow is not None else None
    yield _source(pool.source, traits)
    if pool.type.has_target:
        yield tag("target", [_if_said("path", pool.target.path), _permissions(pool.target.permissions)])
    yield tag("refresh", [tag("volume", allocation=pool.refresh)]) if pool.refresh else None
    if pool.options:
        yield _options(pool.options, traits.options)


def _options(options: tuple[tuple[str, str], ...], prefix: str) -> Tag:
    children = [
        tag(f"{prefix}:option", name=name, value=value if prefix == "rbd" else None)
        for name, value in options
    ]
    return tag(f"{prefix}:{OPTIONS[prefix]}", children)


def _source(source: PoolSource, traits: Traits) -> Tag:
    parts = traits.parts
    children: list[Tag | None] = []
    if Part.HOST in parts:
        children += [tag("host", name=host.name, port=host.port or None) for host in source.hosts]
    if Part.DEVICE in parts:
        children += [
            tag("device", path=device.path, part_separator=_yes_no(device.part_separator))
            for device in source.devices
        ]
    if Part.DIR in parts:
        children.append(_if_attribute("dir", "path", source.dir))
    if Part.ADAPTER in parts and source.adapter is not None:
        children.append(_adapter(source.adapter))
    if Part.NAME in parts:
        children.append(_if_said("name", source.name))
    if Part.INITIATOR in parts and source.iqn:
        children.append(tag("initiator", [tag("iqn", name=source.iqn)]))
    children += [
        _if_attribute("format", "type", source.format),
        _auth(source.auth) if source.auth is not None else None,
        _if_attribute("protocol", "ver", source.protocol),
        _if_attribute("vendor", "name", source.vendor),
        _if_attribute("product", "name", source.product),
    ]
    return tag("source", children)


def _adapter(adapter: Adapter) -> Tag:
    if isinstance(adapter, FcAdapter):
        return tag(
            "adapter",
            type="fc_host",
            parent=adapter.parent,
            parent_wwnn=adapter.parent_wwnn,
            parent_wwpn=adapter.parent_wwpn,
            parent_fabric_wwn=adapter.parent_fabric_wwn,
            managed=_yes_no(adapter.managed),
            wwnn=adapter.wwnn,
            wwpn=adapter.wwpn,
        )
    if adapter.name is not None or adapter.parent is None:
        return tag("adapter", type="scsi_host", name=adapter.name)
    parent = tag("parentaddr", [_address(adapter.parent)], unique_id=adapter.unique_id)
    return tag("adapter", [parent], type="scsi_host")


def _address(address: PciAddress) -> Tag:
    return tag(
        "address",
        domain=f"0x{address.domain:04x}",
        bus=f"0x{address.bus:02x}",
        slot=f"0x{address.slot:02x}",
        function=f"0x{address.function:x}",
    )


def _auth(auth: Auth) -> Tag:
    return tag("auth", [_secret(auth.secret)], type=auth.type, username=auth.username)


def _secret(secret: Secret) -> Tag:
    uuid = format_uuid(secret.uuid) if secret.uuid else None
    return tag("secret", type=secret.type, uuid=uuid, usage=None if uuid else secret.usage)


def _permissions(permissions: Permissions) -> Tag | None:
    if permissions == Permissions():
        return None
    children = (
        _text("mode", f"0{permissions.mode:o}") if permissions.mode is not None else None,
        _text("owner", str(permissions.owner)) if permissions.owner is not None else None,
        _text("group", str(permissions.group)) if permissions.group is not None else None,
        _if_said("label", permissions.label),
    )
    return tag("permissions", children)


# -- volumes


def _volume_parts(volume: Volume, request: bool) -> Iterator[Tag | None]:
    yield _text("name", volume.name)
    yield _if_said("key", volume.key)
    if volume.extents:
        yield tag("source", _extents(volume))
    yield _bytes("capacity", volume.capacity)
    if not request or volume.allocation is not None:
        yield _bytes("allocation", volume.allocated)
    yield _bytes("physical", volume.physical) if volume.physical else None
    yield _target("target", volume.target, request)
    yield _target("backingStore", volume.backing, request) if volume.backing is not None else None


def _extents(volume: Volume) -> Iterator[Tag]:
    for path, extents in groupby(volume.extents, lambda extent: extent.path):
        yield tag("device", [tag("extent", start=one.start, end=one.end) for one in extents], path=path)


def _target(name: str, target: VolumeTarget, request: bool) -> Tag:
    times = [_text(key, value) for key, value in target.timestamps]
    children = (
        _if_said("path", target.path),
        _if_attribute("format", "type", target.format),
        _permissions(target.permissions),
        tag("timestamps", times) if times else None,
        _encryption(target.encryption) if target.encryption is not None else None,
        _if_said("compat", target.compat),
        tag("nocow") if request and target.nocow else None,
        _bytes("clusterSize", target.cluster_size, "B") if target.cluster_size else None,
        _features(target.features) if target.features is not None else None,
    )
    return tag(name, children)


def _features(features: frozenset[str]) -> Tag:
    return tag("features", [tag(name) for name in FEATURES if name in features] or None)


def _encryption(encryption: Encryption) -> Tag:
    children = [_secret(secret) for secret in encryption.secrets]
    if (cipher := encryption.cipher) is not None:
        children.append(tag("cipher", name=cipher.name, size=cipher.size, mode=cipher.mode, hash=cipher.hash))
        if cipher.ivgen is not None:
            children.append(tag("ivgen", name=cipher.ivgen, hash=cipher.ivgen_hash))
    return tag("encryption", children, format=encryption.format, engine=encryption.engine or None)


# -- text


def _text(name: str, value: str) -> Tag:
    return Tag(name, {}, text=value)


def _if_said(name: str, value: str) -> Tag | None:
    return _text(name, value) if value else None


def _if_attribute(name: str, key: str, value: str) -> Tag | None:
    return Tag(name, {key: value}) if value else None


def _bytes(name: str, value: int, unit: str = "bytes") -> Tag:
    return Tag(name, {"unit": unit}, text=str(value))


def _yes_no(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"


def _escape(text: str, signs: Iterable[tuple[str, str]] = _SIGNS) -> str:
    for sign, name in signs:
        text = text.replace(sign, name)
    return text


def _lines(element: Tag, depth: int) -> Iterator[str]:
    indent = "  " * depth
    opening = indent + "<" + element.name
    for key, value in element.attributes.items():
        if value is not None:
            opening += f" {key}='{_escape(str(value), (*_SIGNS, *_BREAKS))}'"
    if element.text is not None:
        yield f"{opening}>{_escape(element.text, (*_SIGNS, _BREAKS[2]))}</{element.name}>"
    elif element.children is None:
        yield opening + "/>"
    else:
        yield opening + ">"
        for child in element.children:
            if child is not None:
                yield from _lines(child, depth + 1)
        yield f"{indent}</{element.name}>"
