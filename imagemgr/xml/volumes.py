"""<volume>: XML to a Volume.  Knows no other volume, and of its pool only the type.  Pure.

What libvirt only writes (key, physical size, timestamps, extents) is read too, as nodes' answers are read here.
"""

from __future__ import annotations

from enum import StrEnum

from compat.xmldoc import Element
from imagemgr.errors import ConfigUnsupported, XmlInvalid
from imagemgr.model import FEATURES, VOLUME_TYPES, Extent, PoolType, Volume, VolumeTarget
from imagemgr.xml.parts import read_encryption, read_permissions
from imagemgr.xml.values import UINT, ULONG, integer, number, one_of, parse_root, said, size

TIMES = ("atime", "mtime", "ctime", "btime")


class Capacity(StrEnum):
    """Who must say how large a volume is: a document always, or not that of an overlay, or not that of a clone."""

    NEEDED = "needed"
    UNLESS_BACKED = "unless backed"
    FREE = "free"


def read_volume(xml: str, kind: PoolType, capacity: Capacity = Capacity.UNLESS_BACKED) -> Volume:
    """The volume that a document describes, in a pool of a type; any ImageError but those of names and manifests."""
    root = parse_root(xml, "volume")
    name, made = said(root, "./name"), said(root, "./@type")
    if not name:
        raise XmlInvalid("the volume has no name")
    if made:
        one_of(made, VOLUME_TYPES, "the type of the volume", ConfigUnsupported)
    backing = _read_backing(root, kind)
    whole = _read_size(root, "capacity")
    if whole is None and (
        capacity is Capacity.NEEDED or (capacity is Capacity.UNLESS_BACKED and backing is None)
    ):
        raise XmlInvalid(f"volume '{name}' has no <capacity>")
    return Volume(
        name=name,
        type=made or "file",
        key=said(root, "./key"),
        extents=_read_extents(root),
        capacity=whole or 0,
        allocation=_read_size(root, "allocation"),
        physical=integer(said(root, "./physical"), 0, ULONG) or 0,
        target=_read_target(root, kind),
        backing=backing,
    )


def _read_size(root: Element, name: str) -> int | None:
    text = said(root, f"./{name}")
    return size(text, said(root, f"./{name}/@unit"), f"the {name}") if text else None


def _read_format(root: Element, name: str, kind: PoolType) -> str:
    formats, text = kind.traits.volume_formats, said(root, f"./{name}/format/@type")
    if not formats or not text:
        return next(iter(formats), "")
    return one_of(text, formats, f"the format of <{name}>", ConfigUnsupported)


def _read_backing(root: Element, kind: PoolType) -> VolumeTarget | None:
    path = said(root, "./backingStore/path")
    if not path:
        return None
    return VolumeTarget(
        path,
        _read_format(root, "backingStore", kind),
        read_permissions(root.find("backingStore/permissions")),
        _read_times(root, "backingStore"),
    )


def _read_target(root: Element, kind: PoolType) -> VolumeTarget:
    path, made = said(root, "./target/path"), _read_format(root, "target", kind)
    permissions, encryption = root.find("target/permissions"), root.find("target/encryption")
    allowed = read_permissions(permissions)
    encrypted = None if encryption is None else read_encryption(encryption)
    compat = _read_compat(said(root, "./target/compat"))
    cluster = said(root, "./target/clusterSize")
    unit = said(root, "./target/clusterSize/@unit")
    cluster_size = size(cluster, unit, "the clusterSize", ULONG) if cluster else 0
    features = _read_features(root)
    return VolumeTarget(
        path=path,
        format=made,
        permissions=allowed,
        timestamps=_read_times(root, "target"),
        encryption=encrypted,
        compat=compat or ("" if features is None else "1.1"),
        cluster_size=cluster_size,
        features=features,
        nocow=root.find("target/nocow") is not None,
    )


def _read_compat(text: str) -> str:
    """Two numbers with a dot between; XmlInvalid."""
    if text:
        numbers = [integer(part, -UINT, UINT) for part in text.split(".", 1)]
        if len(numbers) != 2 or None in numbers:
            raise XmlInvalid(f"<compat> is '{text}', it must be like 1.1")
    return text


def _read_features(root: Element) -> frozenset[str] | None:
    if root.find("target/features") is None:
        return None
    found = [str(child.tag) for child in root.findall("target/features/*") if isinstance(child.tag, str)]
    return frozenset(one_of(name, FEATURES, "the feature", ConfigUnsupported) for name in found)


def _read_times(root: Element, name: str) -> tuple[tuple[str, str], ...]:
    found = ((time, said(root, f"./{name}/timestamps/{time}")) for time in TIMES)
    return tuple((time, text) for time, text in found if text)


def _read_extents(root: Element) -> tuple[Extent, ...]:
    return tuple(
        Extent(
            device.get("path") or "",
            number(child, "start", 0, ULONG) or 0,
            number(child, "end", 0, ULONG) or 0,
        )
        for device in root.findall("source/device")
        for child in device.findall("extent")
    )
