"""Frames of our own on a link, and what comes back: does the other node hear us, does a guest answer.  Decides nothing.

The crossing's frames go to 01:80:c2:00:00:0f (IEEE 802.1Q, table 8-1: reserved, no bridge passes it on), so no guest
gets one, and have the type that IEEE 802 keeps for local experiments; they take the VXLAN link's flood list.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator

from netmgr.seen import Crossed, Crossing, Probe

_NOBODY = bytes.fromhex("0180c200000f")
_EXPERIMENT = 0x88B5
_ARP, _REPLY = 0x0806, 2
_PAUSE = 0.05
_ARP_SECONDS = 1.5
_ARP_BODY = struct.Struct("!HHBBH6s4s6s4s")
_MAGIC = b"clusterhost"
_HEADER = 14


def cross(crossing: Crossing) -> Crossed:
    """Until both nodes know that they hear each other, or the time is over.

    Each frame says whether its sender has heard the other one: who has heard that it was, and has answered once more,
    may go."""
    try:
        link = _open(crossing.link, _EXPERIMENT)
    except OSError as error:
        return Crossed(problem=f"no frame can be sent: {error.strerror}")
    head = _MAGIC + crossing.token
    heard = answered = False
    with link:
        mac = link.getsockname()[4]
        end = time.monotonic() + crossing.seconds
        while time.monotonic() < end:
            said = head + bytes([crossing.first, heard])
            try:
                link.send((_NOBODY + mac + _EXPERIMENT.to_bytes(2, "big") + said).ljust(60, b"\0"))
            except OSError as error:
                return Crossed(heard, answered, f"no frame can be sent: {error.strerror}")
            if heard and answered:
                break
            for frame in _received(link, _PAUSE):
                body = frame[_HEADER:]
                if body.startswith(head) and body[len(head)] != crossing.first:
                    heard, answered = True, answered or bool(body[len(head) + 1])
    return Crossed(heard, answered)


def ask(probe: Probe) -> str:
    """The MAC that answers for an IPv4 address, "" for none.

    The question comes from no address (RFC 5227), so nobody learns from it."""
    target = bytes.fromhex(probe.mac.replace(":", ""))
    address = socket.inet_aton(probe.address)
    try:
        link = _open(probe.bridge, _ARP)
    except OSError:
        return ""
    with link:
        mac = link.getsockname()[4]
        body = _ARP_BODY.pack(1, 0x0800, 6, 4, 1, mac, bytes(4), target, address)
        end = time.monotonic() + _ARP_SECONDS
        while time.monotonic() < end:
            try:
                link.send((target + mac + _ARP.to_bytes(2, "big") + body).ljust(60, b"\0"))
            except OSError:
                return ""
            for frame in _received(link, _ARP_SECONDS / 3):
                found = frame[_HEADER : _HEADER + _ARP_BODY.size]
                if len(found) < _ARP_BODY.size:
                    continue
                *_, operation, owner, has, _, _ = _ARP_BODY.unpack(found)
                if (operation, has) == (_REPLY, address):
                    return ":".join(f"{octet:02x}" for octet in owner)
    return ""


def _open(name: str, kind: int) -> socket.socket:
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.htons(kind))
    try:
        link.bind((name, kind))
    except OSError:
        link.close()
        raise
    return link


def _received(link: socket.socket, seconds: float) -> Iterator[bytes]:
    """What comes within a time, our own left out."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        link.settimeout(left)
        try:
            frame, (_, _, kind, *_) = link.recvfrom(2048)
        except TimeoutError:
            return
        if kind != socket.PACKET_OUTGOING:
            yield frame
