"""Which links were ports of a network's bridge, remembered beyond our own end.  Knows no network.

A bridge that goes lets its ports go; who they were is then known to nobody here.  An index names a link only until the
next boot and in one network namespace, so both are noted.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = Path("/proc/self/ns/net")

Ports = dict[str, int]
"""Name of a link -> its index."""


class _Noted(msgspec.Struct, frozen=True):
    where: str
    ports: Ports


def read(path: Path) -> Ports:
    """What was noted since this boot, in this namespace."""
    try:
        noted = msgspec.json.decode(path.read_bytes(), type=_Noted)
    except (FileNotFoundError, msgspec.MsgspecError):
        return {}
    return noted.ports if noted.where == _where() else {}


def note(path: Path, ports: Ports) -> None:
    """Note them, as a whole.  Not forced to the disk: after a power cut they mean nothing."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_bytes(msgspec.json.encode(_Noted(_where(), ports)))
    temporary.replace(path)


def _where() -> str:
    return f"{_BOOT.read_text().strip()}.{os.stat(_NAMESPACE).st_ino}"
