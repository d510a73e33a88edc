"""What can go wrong at an agent.  Names only."""

from __future__ import annotations

import os
import struct

from compat.libvirt.errors import XdrError
from compat.libvirt.messages import VirNetMessageError

NO_DOMAIN = 42
SYSTEM_ERROR, FROM_STREAMS = 38, 38
_CODE = struct.Struct(">i").unpack_from


class Unavailable(Exception):
    """The agent cannot carry it out.  kind: see control.messages.Failed; the text says why."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class LibvirtRefused(Exception):
    """libvirtd answered with an error; `payload` is its error struct as it came."""

    def __init__(self, payload: bytes) -> None:
        super().__init__(text_of(payload))
        self.payload = payload
        self.code = code_of(payload)


def code_of(payload: bytes) -> int:
    """libvirt's number of an error struct."""
    return int(_CODE(payload)[0]) if len(payload) >= 4 else 0


def text_of(payload: bytes) -> str:
    """The sentence of an error struct."""
    try:
        return VirNetMessageError.from_bytes(payload).message or "no reason given"
    except XdrError:
        return "an error that cannot be read"


def error_struct(code: int, domain: int, text: str) -> bytes:
    """An error struct of our own making, level 2 (error)."""
    return VirNetMessageError(code, domain, text, 2, None, text, None, None, -1, -1, None).to_bytes()


def stream_error(text: str, number: int) -> bytes:
    """The error struct that libvirtd makes of an errno in a stream."""
    said = f"{text}: {os.strerror(number)}"
    error = VirNetMessageError(SYSTEM_ERROR, FROM_STREAMS, said, 2, None, "%s", said, None, number, -1, None)
    return error.to_bytes()
