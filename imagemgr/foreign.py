"""Headers of formats that others made: VMDK, VDI, VHD (vpc), VHDX, Parallels, LUKS, ISO 9660.  Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from imagemgr.errors import ConfigUnsupported, HeaderDamaged
from imagemgr.header import SECTOR, Backing, Header, View, capacity, name, power_of_two

VMDK = (b"KDMV", b"# Disk DescriptorFile")
VDI = b"\x7f\x10\xda\xbe"
VDI_AT = 64
VPC = b"conectix"
VHDX = b"vhdxfile"
PARALLELS = (b"WithoutFreeSpace", b"WithouFreSpacExt")
LUKS = b"LUKS\xba\xbe"
ISO = b"CD001"
ISO_AT = 16 * 2048 + 1

LONGEST_DESCRIPTOR = 64 * 1024
"""Bytes of a VMDK's text; what says more is no disk."""

_EXTENT = re.compile(r'(?:RW|RDONLY|NOACCESS)\s+(\d+)\s+(\w+)(?:\s+"([^"\r\n]*)")?')
_NO_PARENT = "ffffffff"

_VDI_KINDS = {1: "dynamic", 2: "fixed"}
_VHD_FIXED, _VHD_DYNAMIC = 2, 3
_MOST_GEOMETRY = 65535 * 16 * 255
_BY_SIZE = (b"win ", b"qem2", b"d2v ", b"tap\0")
"""Makers of VHDs whose size is the one that is written; the others' is that of the geometry (as QEMU reads them)."""

_REGIONS = (192 * 1024, 256 * 1024)
_METADATA = bytes.fromhex("06a27c8b90479a4bb8fe575f050f886e")
_DISK_SIZE = bytes.fromhex("2442a52f1bcd7648b2115dbed83bf4b8")
_PARAMETERS = bytes.fromhex("3767a1ca36fa434db3b633f0aa44e76b")
_MOST_ENTRIES = 2047
_HAS_PARENT = 2


def vmdk(view: View) -> Header:
    """A sparse file with a text in it, or the text alone with files beside it."""
    if view.begins(VMDK[1]):
        text = _text(view, 0, view.size)
        extents = list(_extents(text))
        size = capacity(sum(sectors for sectors, _ in extents) * SECTOR)
        return Header("vmdk", size, backing=_parent(text), parts=tuple(file for _, file in extents if file))
    version, _, sectors, grain, text_at, text_size = view.fields("<4xIIQQQQ", 0, "the header of vmdk")
    if not 1 <= version <= 3:
        raise ConfigUnsupported(f"a VMDK of version {version} is not known, allowed are 1 to 3")
    power_of_two(grain * SECTOR, 4096, 64 * 1024 * 1024, "a grain")
    size = capacity(sectors * SECTOR)
    if not text_at:
        return Header("vmdk", size, version, grain * SECTOR)
    text = _text(view, text_at * SECTOR, text_size * SECTOR)
    return Header("vmdk", size, version, grain * SECTOR, _parent(text))


def vdi(view: View) -> Header:
    """VirtualBox's."""
    what = "the header of vdi"
    _, kind, _ = view.fields("<III", 72, what)
    size, block = view.fields("<QI", 368, what)
    parents = view.at(424, 32, what)
    if kind not in _VDI_KINDS or any(parents):
        raise ConfigUnsupported("a VDI that is the difference to another one is not supported")
    power_of_two(block, 4096, 2**28, "a block")
    return Header("vdi", capacity(size), cluster=block, features=(_VDI_KINDS[kind],))


def vpc(view: View) -> Header:
    """Virtual PC's, also called VHD; one of fixed size has its header at its end."""
    dynamic = view.begins(VPC)
    footer = view.at(0 if dynamic else view.size - SECTOR, SECTOR, "the footer of vpc")
    if -sum(footer[:64] + footer[68:]) - 1 & 0xFFFFFFFF != int.from_bytes(footer[64:68]):
        raise HeaderDamaged("the footer of vpc has another checksum than its bytes")
    creator, size = footer[28:32], int.from_bytes(footer[48:56])
    cylinders, heads, sectors = int.from_bytes(footer[56:58]), footer[58], footer[59]
    kind, geometry = int.from_bytes(footer[60:64]), cylinders * heads * sectors
    if kind not in (_VHD_FIXED, _VHD_DYNAMIC):
        raise ConfigUnsupported("a VHD that is the difference to another one is not supported")
    if creator not in _BY_SIZE and geometry != _MOST_GEOMETRY:
        size = geometry * SECTOR
    cluster = 0
    if kind == _VHD_DYNAMIC:
        at = int.from_bytes(footer[16:24])
        magic, cluster = view.fields(">8s24xI", at, "the header of vpc")
        if magic != b"cxsparse":
            raise HeaderDamaged(f"the header of vpc is not at byte {at}")
        power_of_two(cluster, 512, 2**31, "a block")
    features = ("dynamic",) if kind == _VHD_DYNAMIC else ("fixed",)
    return Header("vpc", capacity(size // SECTOR * SECTOR), cluster=cluster, features=features)


def vhdx(view: View) -> Header:
    """Hyper-V's: a table of regions, one of which has a table of facts."""
    start, length = _metadata(view)
    what = "the metadata of vhdx"
    magic, count = view.fields("<8s2xH", start, what)
    if magic != b"metadata" or count > _MOST_ENTRIES:
        raise HeaderDamaged(f"{what} are not at byte {start}")
    places: dict[bytes, int] = {}
    for index in range(count):
        item, offset, size = view.fields("<16sII", start + 32 + 32 * index, what)
        if offset + size > length:
            raise HeaderDamaged(f"an entry of {what} ends at byte {offset + size}, they at {length}")
        places[item] = start + offset
    if not {_DISK_SIZE, _PARAMETERS} <= places.keys():
        raise HeaderDamaged(f"{what} do not say how large the disk is")
    (size,) = view.fields("<Q", places[_DISK_SIZE], what)
    block, flags = view.fields("<II", places[_PARAMETERS], what)
    if flags & _HAS_PARENT:
        raise ConfigUnsupported("a VHDX that is the difference to another one is not supported")
    power_of_two(block, 2**20, 2**28, "a block")
    return Header("vhdx", capacity(size), cluster=block)


def parallels(view: View) -> Header:
    """Of the older kind a disk has fewer than 2^32 sectors: the upper half of the number is something else."""
    what = "the header of parallels"
    magic, version, tracks, sectors = view.fields("<16sI8xI4xQ", 0, what)
    if version != 2 or not tracks:
        raise HeaderDamaged(f"{what} has version {version} and {tracks} sectors in a cluster")
    if magic == PARALLELS[0]:
        sectors &= 0xFFFFFFFF
    return Header("parallels", capacity(sectors * SECTOR), version, tracks * SECTOR)


def luks(view: View) -> Header:
    """Version 1, the one that QEMU makes and opens."""
    what = "the header of luks"
    (version,) = view.fields(">H", 6, what)
    if version != 1:
        raise ConfigUnsupported(f"LUKS of version {version} is not supported, only 1 is")
    (payload,) = view.fields(">I", 104, what)
    return Header("luks", capacity(view.size - payload * SECTOR), version, encryption="luks")


def iso(view: View) -> Header:
    """A CD; to a guest it is what it is."""
    view.at(ISO_AT, 2047, "the volume descriptor")
    return Header("iso", capacity(view.size))


def _text(view: View, at: int, size: int) -> bytes:
    if size > LONGEST_DESCRIPTOR:
        raise HeaderDamaged(f"the descriptor has {size} bytes, allowed are {LONGEST_DESCRIPTOR}")
    return view.at(at, size, "the descriptor")


def _extents(text: bytes) -> Iterator[tuple[int, str]]:
    """Sectors and file of each part of a VMDK; a part of zeros has no file."""
    for line in text.decode("utf-8", "surrogateescape").splitlines():
        if found := _EXTENT.match(line.strip()):
            file = found[3] or ""
            if not file and found[2] != "ZERO":
                raise HeaderDamaged(f"an extent of kind {found[2]} has no file")
            # More digits than any disk has: Python would refuse to read some of them.
            if len(found[1]) > 20:
                raise HeaderDamaged("an extent has more sectors than a disk")
            yield int(found[1]), name(_bytes(file), "an extent's file") if file else ""


def _parent(text: bytes) -> Backing | None:
    """A VMDK's parent is a VMDK."""
    lines = dict(_assignments(text))
    if lines.get("parentCID", _NO_PARENT).lower() == _NO_PARENT:
        return None
    hint = lines.get("parentFileNameHint", "").strip('"')
    return Backing(name(_bytes(hint), "the parent's name"), "vmdk")


def _assignments(text: bytes) -> Iterator[tuple[str, str]]:
    for line in text.rstrip(b"\0").decode("utf-8", "surrogateescape").splitlines():
        key, equals, value = line.partition("=")
        if equals:
            yield key.strip(), value.strip()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _metadata(view: View) -> tuple[int, int]:
    """Where that region of a VHDX is, and its length; there are two copies of the table."""
    for at in _REGIONS:
        magic, count = view.fields("<4s4xI", at, "the table of regions")
        if magic != b"regi" or count > _MOST_ENTRIES:
            continue
        for index in range(count):
            kind, offset, length = view.fields("<16sQI", at + 16 + 32 * index, "the table of regions")
            if kind == _METADATA:
                return offset, length
    raise HeaderDamaged("the VHDX has no region of metadata")
