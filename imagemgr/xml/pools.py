"""<pool>: XML to a Pool.  Knows no other pool.  Pure."""

from __future__ import annotations

from dataclasses import replace

from compat.xmldoc import Element
from imagemgr.errors import ConfigUnsupported, NotOfThisPool, XmlInvalid, XmlMalformed
from imagemgr.model import Device, Host, Part, Pool, PoolSource, PoolTarget, PoolType, Traits
from imagemgr.names import sanitized
from imagemgr.xml.adapters import check_adapter, read_adapter
from imagemgr.xml.parts import read_auth, read_permissions
from imagemgr.xml.values import INT, choice, flag, number, one_of, parse_root, parse_uuid, said

NAMESPACES = {
    "fs": "http://libvirt.org/schemas/storagepool/fs/1.0",
    "rbd": "http://libvirt.org/schemas/storagepool/rbd/1.0",
}
"""Namespaces of options, by their usual prefix."""
OPTIONS = {"fs": "mount_opts", "rbd": "config_opts"}
TYPES = tuple(str(kind) for kind in PoolType)
MADE_TARGETS = {PoolType.LOGICAL: "/dev/", PoolType.ZFS: "/dev/zvol/"}
"""Where the volumes of these types are is not theirs to say."""


def read_pool(xml: str) -> Pool:
    """The pool that a document describes; any ImageError but those of names and manifests."""
    root = parse_root(xml, "pool")
    kind = choice(root, "type", TYPES)
    if kind is None:
        raise XmlInvalid("<pool> has no type")
    return _read(root, PoolType(kind))


def read_source(xml: str, kind: PoolType) -> PoolSource:
    """<source> alone, as a client sends it to have sources found; the same errors."""
    return _read_source(parse_root(xml, "source"), kind)


def _read(root: Element, kind: PoolType) -> Pool:
    element, traits = root.find("source"), kind.traits
    source = PoolSource(format=traits.default_format) if element is None else _read_source(element, kind)
    name = _read_name(root, source if Part.NAME in traits.parts else None)
    text = said(root, "./uuid")
    uuid = parse_uuid(text) if text else b""
    cow = _read_cow(root, kind)
    source = _complete(source, name, traits)
    target = _read_target(root, kind, source)
    if kind is PoolType.ISCSI_DIRECT and not source.iqn:
        raise ConfigUnsupported(f"pool '{name}': <source> has no <initiator> with an iqn")
    refresh = said(root, "./refresh/volume/@allocation")
    if refresh:
        one_of(refresh, ("default", "capacity"), "the refresh of volumes'", ConfigUnsupported)
    options = _read_options(root, traits.options)
    # libvirt's driver looks for it only when all else is well.
    if "\n" in name:
        raise XmlMalformed(f"the name of the pool has a line break in it: {name!r}")
    return Pool(kind, name, uuid, source, target, cow, refresh, options)


def _read_name(root: Element, source: PoolSource | None) -> str:
    name = said(root, "./name") or (source.name if source is not None else "")
    if not name:
        raise XmlInvalid("the pool has no name")
    if "/" in name:
        raise XmlInvalid(f"the name of the pool has a slash in it: {name!r}")
    return name


def _read_cow(root: Element, kind: PoolType) -> bool | None:
    element = root.find("features/cow")
    cow = None if element is None else flag(element, "state")
    if cow is not None and kind not in (PoolType.FS, PoolType.DIR):
        raise NotOfThisPool(f"a pool of type {kind} has no feature cow, only fs and dir have it")
    return cow


def _read_source(element: Element, kind: PoolType) -> PoolSource:
    traits = kind.traits
    name = said(element, "./name")
    if kind is PoolType.RBD and not name:
        raise XmlInvalid("<source> has no <name>, a pool of type rbd needs it")
    made = _read_format(element, traits)
    hosts = tuple(_read_host(child) for child in element.findall("host"))
    devices = tuple(_read_device(child) for child in element.findall("device"))
    directory = said(element, "./dir/@path")
    adapter, auth = element.find("adapter"), element.find("auth")
    return PoolSource(
        name=name,
        hosts=hosts,
        devices=devices,
        dir=sanitized(directory) if directory else "/" if kind is PoolType.GLUSTER else "",
        adapter=None if adapter is None else read_adapter(adapter),
        iqn=said(element, "./initiator/iqn/@name"),
        format=made,
        auth=None if auth is None else read_auth(auth),
        protocol=_read_protocol(said(element, "./protocol/@ver"), made, traits),
        vendor=said(element, "./vendor/@name"),
        product=said(element, "./product/@name"),
    )


def _read_format(element: Element, traits: Traits) -> str:
    text = said(element, "./format/@type")
    if not traits.formats or not text:
        return traits.default_format
    return one_of(text, traits.formats, "the format of the source", ConfigUnsupported)


def _read_host(element: Element) -> Host:
    name = element.get("name")
    if name is None:
        raise XmlInvalid("<host> of the source has no name")
    return Host(name, number(element, "port", -INT - 1, INT) or 0)


def _read_device(element: Element) -> Device:
    path = element.get("path")
    if path is None:
        raise XmlInvalid("<device> of the source has no path")
    return Device(path, flag(element, "part_separator"))


def _read_protocol(version: str, made: str, traits: Traits) -> str:
    # libvirt looks at the number of the format, so the first two of any pool's pass.
    if version and made not in traits.formats[:2] and traits.formats:
        raise ConfigUnsupported(f"<protocol> is not possible with the format {made}")
    if "," in version:
        raise XmlMalformed(f"ver of <protocol> is '{version}', no comma is allowed")
    return version


def _complete(source: PoolSource, name: str, traits: Traits) -> PoolSource:
    """What a source must have, and its name where none is written: that of the pool."""
    if Part.HOST in traits.parts and not source.hosts:
        raise XmlInvalid(f"pool '{name}': the source has no <host>")
    if Part.DIR in traits.parts and not source.dir:
        raise XmlInvalid(f"pool '{name}': the source has no <dir> with a path")
    if Part.ADAPTER in traits.parts:
        check_adapter(source.adapter)
    if traits.parts == {Part.DEVICE} and not source.devices:
        raise XmlInvalid(f"pool '{name}': the source has no <device>")
    if Part.NAME in traits.parts and not source.name:
        return replace(source, name=name)
    return source


def _read_target(root: Element, kind: PoolType, source: PoolSource) -> PoolTarget:
    if not kind.has_target:
        return PoolTarget()
    if kind in MADE_TARGETS:
        path = MADE_TARGETS[kind] + source.name
    else:
        path = said(root, "./target/path")
    if not path:
        raise XmlInvalid("the pool has no <path> in its <target>")
    return PoolTarget(sanitized(path), read_permissions(root.find("target/permissions")))


def _read_options(root: Element, prefix: str) -> tuple[tuple[str, str], ...]:
    if not prefix:
        return ()
    space = f"{{{NAMESPACES[prefix]}}}"
    found = root.findall(f"{space}{OPTIONS[prefix]}/{space}option")
    return tuple(_read_option(child, prefix) for child in found)


def _read_option(element: Element, prefix: str) -> tuple[str, str]:
    name, value = element.get("name"), element.get("value")
    if prefix == "fs":
        if name is None:
            raise XmlInvalid("<fs:option> has no name")
        return name, ""
    if not name or not value:
        raise XmlInvalid("<rbd:option> needs a name and a value")
    return name, value
