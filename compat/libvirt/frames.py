"""Packets: the length word, the header and the payload.  Pure; knows no procedure."""

from __future__ import annotations

import struct

from compat.libvirt.constants import (
    VIR_NET_CONTINUE,
    VIR_NET_ERROR,
    VIR_NET_MESSAGE_MAX,
    VIR_NET_MESSAGE_PAYLOAD_MAX,
    VIR_NET_OK,
)
from compat.libvirt.errors import LocalError, ProtocolError

HEADER = struct.Struct(">IIIiiIi")
"""length (of all, itself included), program, version, procedure, type, serial, status."""

LENGTH = struct.Struct(">I")
HEADER_SIZE = HEADER.size
LENGTH_MAX = VIR_NET_MESSAGE_MAX + LENGTH.size
STREAM_CHUNK = 262120
"""Bytes of stream data that a daemon puts in one packet; a peer may send more, up to the payload's limit."""

OK, ERROR, CONTINUE = VIR_NET_OK, VIR_NET_ERROR, VIR_NET_CONTINUE


def frame(
    program: int,
    version: int,
    procedure: int,
    type: int,
    serial: int,
    status: int,
    payload: bytes | bytearray = b"",
) -> bytes:
    """Return one whole packet.  LocalError when the payload or a number is too big for it."""
    size = len(payload)
    if size > VIR_NET_MESSAGE_PAYLOAD_MAX:
        raise LocalError(f"a payload of {size} bytes, {VIR_NET_MESSAGE_PAYLOAD_MAX} at most")
    try:
        return HEADER.pack(28 + size, program, version, procedure, type, serial, status) + payload
    except struct.error as error:
        raise LocalError(f"packet header: {error}") from None


def check_length(length: int) -> int:
    """Return the length word of a packet; ProtocolError when no packet can have it."""
    if HEADER_SIZE <= length <= LENGTH_MAX:
        return length
    raise ProtocolError(f"a packet of {length} bytes, {HEADER_SIZE} to {LENGTH_MAX} allowed")


def split(data: bytes) -> tuple[tuple[int, int, int, int, int, int], bytes]:
    """Take one whole packet apart: (program, version, procedure, type, serial, status), payload."""
    if len(data) < HEADER_SIZE or check_length(LENGTH.unpack_from(data)[0]) != len(data):
        raise ProtocolError(f"{len(data)} bytes are not one whole packet")
    _, program, version, procedure, type, serial, status = HEADER.unpack_from(data)
    return (program, version, procedure, type, serial, status), data[HEADER_SIZE:]
