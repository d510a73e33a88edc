"""Frames that nodes send each other by VXLAN, and DHCP at guests' taps, by packet sockets.  Knows no test."""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Generic, Self, TypeVar

Seen = TypeVar("Seen")

VXLAN_PORT = 4789
_IPV4, _ARP, _IPV6, _UDP, _ICMP6 = 0x0800, 0x0806, 0x86DD, 17, 58
_DISCOVERY, _WITH_TARGET = range(133, 138), (135, 136)
ROUTERS = (133, 134)
"""Types of router solicitation and advertisement."""
_ETHERNET, _ALL = 14, 3
_CLONE_NEWNET = 0x40000000
_RCVBUFFORCE = 33
_BOOTPS, _BOOTPC, _COOKIE = 67, 68, 240
DISCOVER, OFFER, REQUEST, ACK = 1, 2, 3, 5
_PAD, _END, _MESSAGE_TYPE = 0, 255, 53


@dataclass(frozen=True)
class Frame:
    """What a node sent into the overlay: MACs, kind (arp, ipv4, ipv6, other), its addresses, ports of UDP (else 0).

    nd: type of a message of IPv6's neighbour discovery, else 0; its target is the receiver then, if it has one."""

    node: str
    vni: int
    source: str
    destination: str
    kind: str
    sender: str = ""
    receiver: str = ""
    ports: tuple[int, int] = (0, 0)
    nd: int = 0

    @property
    def is_dhcp(self) -> bool:
        """Of either version."""
        return bool({67, 68, 546, 547} & set(self.ports))


def encapsulated(node: str, packet: bytes) -> Frame | None:
    """The frame within an underlay's frame (IPv4, UDP to VXLAN's port); None for anything else."""
    if packet[12:14] != b"\x08\x00" or packet[23] != _UDP:
        return None
    at = _ETHERNET + (packet[14] & 15) * 4
    (port,) = struct.unpack_from("!H", packet, at + 2)
    if port != VXLAN_PORT:
        return None
    vni = int.from_bytes(packet[at + 12 : at + 15])
    return frame(node, vni, packet[at + 16 :])


def frame(node: str, vni: int, data: bytes) -> Frame:
    """One Ethernet frame."""
    destination, source = data[:6].hex(":"), data[6:12].hex(":")
    kind = int.from_bytes(data[12:14])
    body = data[_ETHERNET:]
    if kind == _ARP:
        sender, receiver = (str(ip_address(body[at : at + 4])) for at in (14, 24))
        return Frame(node, vni, source, destination, "arp", sender, receiver)
    if kind == _IPV4:
        sender, receiver = (str(ip_address(body[at : at + 4])) for at in (12, 16))
        return Frame(node, vni, source, destination, "ipv4", sender, receiver, _ports(body[9], body, 20))
    if kind == _IPV6:
        sender, receiver = (str(ip_address(body[at : at + 16])) for at in (8, 24))
        nd = body[40] if body[6] == _ICMP6 and body[40] in _DISCOVERY else 0
        if nd in _WITH_TARGET:
            receiver = str(ip_address(body[48:64]))
        return Frame(node, vni, source, destination, "ipv6", sender, receiver, _ports(body[6], body, 40), nd)
    return Frame(node, vni, source, destination, "other")


def _ports(protocol: int, body: bytes, at: int) -> tuple[int, int]:
    if protocol != _UDP or len(body) < at + 4:
        return 0, 0
    first, second = struct.unpack_from("!HH", body, at)
    return int(first), int(second)


@dataclass(frozen=True)
class Dhcp:
    """A message of DHCP at a guest's tap: its number and kind, and whether the guest sent it."""

    number: int
    kind: int
    asked: bool


def dhcp(link: str, packet: bytes) -> Dhcp | None:
    """A message of DHCP at a tap; None for anything else."""
    if not link.startswith("vnet") or packet[12:14] != b"\x08\x00" or packet[23] != _UDP:
        return None
    at = _ETHERNET + (packet[14] & 15) * 4
    to = int.from_bytes(packet[at + 2 : at + 4])
    if to not in (_BOOTPS, _BOOTPC):
        return None
    body = packet[at + 8 :]
    return Dhcp(int.from_bytes(body[4:8]), _message_type(body[_COOKIE:]), to == _BOOTPS)


def _message_type(options: bytes) -> int:
    at = 0
    while at + 2 < len(options) and options[at] != _END:
        if options[at] == _MESSAGE_TYPE:
            return options[at + 2]
        at += 1 if options[at] == _PAD else 2 + options[at + 1]
    return 0


def answers(messages: list[Dhcp]) -> dict[int, tuple[int, int]]:
    """Exchange -> how often was asked and answered: DISCOVER by OFFER, REQUEST by ACK."""
    asked = Counter(one.number for one in messages if one.kind in (DISCOVER, REQUEST))
    answered = Counter(one.number for one in messages if one.kind in (OFFER, ACK))
    return {number: (asked[number], answered[number]) for number in asked | answered}


class Watch(Generic[Seen]):
    """From `with` to its end: what `read` makes of the packets of all links in a process's network namespace.

    read: (link, packet) -> what it is, None to pass it over; of packets that come in, and with `sent` of those that go
    out too."""

    def __init__(self, pid: int, read: Callable[[str, bytes], Seen | None], *, sent: bool = False) -> None:
        self._pid, self._read, self._sent = pid, read, sent
        self._found: list[Seen] = []
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="packets", daemon=True)

    def __enter__(self) -> Self:
        # A thread that changed over stays there, so it is not used again.
        with ThreadPoolExecutor(1) as one:
            self._socket = one.submit(_packets, self._pid).result()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(10)
        self._socket.close()  # an open one would keep the namespace of a node that lost power

    @property
    def seen(self) -> list[Seen]:
        """So far."""
        with self._lock:
            return list(self._found)

    def _listen(self) -> None:
        while not self._end.is_set():
            if not select.select([self._socket], [], [], 0.2)[0]:
                continue
            packet, (link, _, kind, *_) = self._socket.recvfrom(65536)
            if kind == socket.PACKET_OUTGOING and not self._sent:
                continue
            if (found := self._read(link, packet)) is not None:
                with self._lock:
                    self._found.append(found)


def _packets(pid: int) -> socket.socket:
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns to the network of {pid}")
    finally:
        os.close(namespace)
    connection = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.htons(_ALL))
    connection.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, 16 << 20)
    return connection
