"""Headers of QEMU's own formats: qcow, qcow2, qed (QEMU: docs/interop/qcow2.txt, qed_spec.txt).  Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from imagemgr.errors import ConfigUnsupported, HeaderDamaged
from imagemgr.header import LONGEST_NAME, Backing, Header, View, capacity, name, power_of_two

QCOW = b"QFI\xfb\x00\x00\x00\x01"
QCOW2 = (b"QFI\xfb\x00\x00\x00\x02", b"QFI\xfb\x00\x00\x00\x03")
QED = b"QED\x00"

_CIPHERS = ("", "aes", "luks")
_INCOMPATIBLE = ("dirty", "corrupt", "data_file", "compression_type", "extended_l2")
_LAZY_REFCOUNTS = 1
_END, _BACKING_FORMAT, _DATA_FILE = 0, 0xE2792ACA, 0x44415441
_LONGEST_FORMAT = 15
_V2, _V3 = 72, 104

_QED_BACKING, _QED_CHECK, _QED_RAW = 1, 2, 4


def qcow2(view: View) -> Header:
    """Versions 2 and 3."""
    what = "the header of qcow2"
    _, version, name_at, name_size, bits, size, cipher, l1_size, l1_at = view.fields(">IIQIIQIIQ", 0, what)
    if not 9 <= bits <= 21:
        raise HeaderDamaged(f"a cluster has 2^{bits} bytes, allowed are 2^9 to 2^21")
    cluster = 1 << bits
    incompatible, compatible, length = 0, 0, _V2
    if version == 3:
        incompatible, compatible, _, _, length = view.fields(">QQQII", _V2, what)
        if not _V3 <= length <= cluster or length % 8:
            raise HeaderDamaged(
                f"the header has {length} bytes, allowed are multiples of 8 from {_V3} to {cluster}"
            )
    if l1_size and l1_at > view.size:
        raise HeaderDamaged(f"its table of clusters is at byte {l1_at}, the file has {view.size}")
    said = _Extensions()
    if length < cluster:
        said = _extensions(view, length, name_at or min(cluster, view.size))
    return Header(
        "qcow2",
        capacity(size),
        version,
        cluster,
        _backing(view, name_at, name_size, cluster, said.backing_format),
        _data_file(said, incompatible),
        (*_features(incompatible), *(("lazy_refcounts",) if compatible & _LAZY_REFCOUNTS else ())),
        _cipher(cipher),
        tuple(_doubts(incompatible)),
    )


def qcow(view: View) -> Header:
    """Version 1, which has no place for a backing file's format."""
    fields = view.fields(">8xQIIQBBHIQ", 0, "the header of qcow")
    name_at, name_size, _, size, bits, _, _, cipher, _ = fields
    if not 9 <= bits <= 16:
        raise HeaderDamaged(f"a cluster has 2^{bits} bytes, allowed are 2^9 to 2^16")
    backing = None
    if name_at:
        backing = Backing(_name(view, name_at, name_size))
    return Header("qcow", capacity(size), 1, 1 << bits, backing, encryption=_cipher(cipher))


def qed(view: View) -> Header:
    """Of the formats of backing files it knows raw and any other."""
    cluster, table, clusters, features, _, _, l1_at, size, name_at, name_size = view.fields(
        "<4xIIIQQQQQII", 0, "the header of qed"
    )
    power_of_two(cluster, 2**12, 2**26, "a cluster")
    if not 1 <= table <= 16 or table & (table - 1):
        raise HeaderDamaged(f"a table has {table} clusters, allowed are powers of two from 1 to 16")
    if l1_at > view.size:
        raise HeaderDamaged(f"its table of clusters is at byte {l1_at}, the file has {view.size}")
    backing = None
    if features & _QED_BACKING:
        if name_at + name_size > clusters * cluster:
            raise HeaderDamaged(
                f"the backing file's name ends at byte {name_at + name_size}, out of the header"
            )
        backing = Backing(_name(view, name_at, name_size), "raw" if features & _QED_RAW else "")
    unknown = features & ~(_QED_BACKING | _QED_CHECK | _QED_RAW)
    return Header(
        "qed",
        capacity(size),
        cluster=cluster,
        backing=backing,
        features=("dirty",) if features & _QED_CHECK else (),
        doubts=(f"it needs feature {unknown:#x}, which is not known here",) if unknown else (),
    )


@dataclass(slots=True)
class _Extensions:
    """What the header's extensions say; None: there is none of that kind."""

    backing_format: bytes | None = None
    data_file: bytes | None = None


def _extensions(view: View, start: int, end: int) -> _Extensions:
    """Between the fixed part and the backing file's name, or the end of the first cluster."""
    found = _Extensions()
    while start + 8 <= end:
        kind, length = view.fields(">II", start, "an extension of the header")
        if kind == _END:
            break
        if length > end - start - 8:
            raise HeaderDamaged(
                f"an extension of {length} bytes at {start} reaches over the header's end at {end}"
            )
        if kind == _BACKING_FORMAT:
            if length > _LONGEST_FORMAT:
                raise HeaderDamaged(f"the backing format has {length} bytes, allowed are {_LONGEST_FORMAT}")
            found.backing_format = view.at(start + 8, length, "the backing format")
        elif kind == _DATA_FILE:
            if length > LONGEST_NAME:
                raise HeaderDamaged(f"the data file's name has {length} bytes, allowed are {LONGEST_NAME}")
            found.data_file = view.at(start + 8, length, "the data file's name")
        start += 8 + -(-length // 8) * 8
    return found


def _backing(view: View, at: int, size: int, cluster: int, form: bytes | None) -> Backing | None:
    if not at:
        return None
    if at + size > cluster:
        raise HeaderDamaged(f"the backing file's name ends at byte {at + size}, the header at {cluster}")
    return Backing(_name(view, at, size), (form or b"").decode("ascii", "replace"))


def _name(view: View, at: int, size: int) -> str:
    what = "the backing file's name"
    if size > LONGEST_NAME:
        raise HeaderDamaged(f"{what} has {size} bytes, allowed are {LONGEST_NAME}")
    return name(view.at(at, size, what), what)


def _data_file(said: _Extensions, incompatible: int) -> tuple[str, ...]:
    """Without the bit QEMU looks at no other file; with it and no name, whoever opens it has to give one."""
    if not incompatible & 1 << _INCOMPATIBLE.index("data_file"):
        return ()
    return (name(said.data_file, "the data file's name") if said.data_file else "",)


def _features(incompatible: int) -> Iterator[str]:
    for bit, feature in enumerate(_INCOMPATIBLE):
        if incompatible & 1 << bit:
            yield feature


def _doubts(incompatible: int) -> Iterator[str]:
    if incompatible & 1 << _INCOMPATIBLE.index("corrupt"):
        yield "it is marked corrupt"
    if unknown := incompatible >> len(_INCOMPATIBLE):
        yield f"it needs feature {unknown << len(_INCOMPATIBLE):#x}, which is not known here"


def _cipher(number: int) -> str:
    if number >= len(_CIPHERS):
        raise ConfigUnsupported(
            f"encryption number {number} is not known, allowed are 0 to {len(_CIPHERS) - 1}"
        )
    return _CIPHERS[number]
