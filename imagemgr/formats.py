"""Formats of images: whether a file is what it is said to be, and what its header says.  Pure.

raw is never taken for anything else: a guest writes what it likes into the first bytes of a raw disk, also a header
that names a file of the host as its backing file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

from imagemgr import foreign, qcow
from imagemgr.errors import ConfigUnsupported, FormatDiffers
from imagemgr.header import SECTOR, Backing, Header, View

__all__ = ["FORMATS", "RAW", "Backing", "Header", "View", "begins_like", "check"]

RAW = "raw"


@dataclass(frozen=True, slots=True)
class Format:
    """How it begins (any of these magics), at which byte, and how its header is read.  ends: a copy of its magic may
    stand in the last sector only."""

    read: Callable[[View], Header]
    magics: tuple[bytes, ...]
    at: int = 0
    ends: bool = False

    def fits(self, view: View) -> bool:
        """The file begins like this."""
        if any(view.begins(magic, self.at) for magic in self.magics):
            return True
        return self.ends and view.size >= SECTOR and view.begins(self.magics[0], view.size - SECTOR)


FORMATS = MappingProxyType(
    {
        "qcow2": Format(qcow.qcow2, qcow.QCOW2),
        "qcow": Format(qcow.qcow, (qcow.QCOW,)),
        "qed": Format(qcow.qed, (qcow.QED,)),
        "vmdk": Format(foreign.vmdk, foreign.VMDK),
        "vdi": Format(foreign.vdi, (foreign.VDI,), foreign.VDI_AT),
        "vhdx": Format(foreign.vhdx, (foreign.VHDX,)),
        "parallels": Format(foreign.parallels, foreign.PARALLELS),
        "luks": Format(foreign.luks, (foreign.LUKS,)),
        "vpc": Format(foreign.vpc, (foreign.VPC,), ends=True),
        "iso": Format(foreign.iso, (foreign.ISO,), foreign.ISO_AT),
    }
)
"""By libvirt's name, where it has one, else QEMU's.  Raw is none of them."""

_SAME = MappingProxyType({"vhd": "vpc"})


def check(declared: str, view: View) -> Header:
    """The header of a file that is said to be of a format.

    FormatDiffers where it is not, HeaderDamaged, ConfigUnsupported for a format that is not read here."""
    if declared == RAW:
        return Header(RAW, view.size)
    form = FORMATS.get(_SAME.get(declared, declared))
    if form is None:
        known = ", ".join((RAW, *FORMATS))
        raise ConfigUnsupported(f"format {declared!r} is not read here, known are {known}")
    if not form.fits(view):
        raise FormatDiffers(f"it is said to be {declared}, but begins like {begins_like(view)}")
    return form.read(view)


def begins_like(view: View) -> str:
    """The format whose magic a file has, raw for none.  To tell people; never to open a disk by."""
    return next((name for name, form in FORMATS.items() if form.fits(view)), RAW)
