"""Where other nodes reach this one's VXLAN links.  Asks the resolver and the routing table; sends nothing."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import sys
from array import array
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from struct import Struct
from urllib.parse import urlsplit

_SOMEWHERE = "udp://192.0.2.1:9"
"""An address of documentation (RFC 5737): its route is the default route."""
_SIOCGIFCONF, _SIOCGIFMTU = 0x8912, 0x8921
_IFREQ, _IFCONF = Struct("@16s24s"), Struct("@iP")
_MOST_ADDRESSES = 1024


def address(given: str, migration_address: str, control: str) -> str:
    """An IP address: `given`, else what migration_address means, else the one that we dial the front end's `control`
    from, what our host name means, or what we have on the way out; "" when all of them are loopback or unknown.  Blocks
    while names are resolved.
    """
    for found in _candidates(given, migration_address, control):
        if not (ip_address(found).is_loopback or ip_address(found).is_unspecified):
            return found
    return ""


def mtu(address: str) -> int:
    """Of this machine's link that has the address, in bytes; 0 when none has."""
    name = _link6(address) if ":" in address else _link4(address)
    if not name:
        return 0
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        answer = fcntl.ioctl(asking, _SIOCGIFMTU, _IFREQ.pack(name.encode(), bytes(24)))
        return int.from_bytes(answer[16:20], sys.byteorder)
    return 0


def _link4(address: str) -> str:
    """All addresses of version 4, a link's second and third too, are in SIOCGIFCONF (netdevice(7))."""
    room = array("B", bytes(_IFREQ.size * _MOST_ADDRESSES))
    where, size = room.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        answer = fcntl.ioctl(asking, _SIOCGIFCONF, _IFCONF.pack(size, where))
    (used, _) = _IFCONF.unpack(answer)
    for at in range(0, used, _IFREQ.size):
        label, found = _IFREQ.unpack_from(room, at)
        if socket.inet_ntoa(found[4:8]) == address:
            return str(label.rstrip(b"\0").decode().split(":")[0])
    return ""


def _link6(address: str) -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            digits, *_, name = line.split()
            if bytes.fromhex(digits) == ip_address(address).packed:
                return name
    return ""


def _candidates(given: str, migration_address: str, control: str) -> Iterator[str]:
    if given:
        yield from _resolved(given)
        return
    if migration_address:
        yield from _resolved(migration_address.strip("[]"))
    yield from _dialled_from(control)
    yield from _resolved(socket.gethostname())
    yield from _dialled_from(_SOMEWHERE)


def _resolved(name: str) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for *_, found in socket.getaddrinfo(name, None, type=socket.SOCK_DGRAM):
            # A scope ("fe80::1%eth0") means something on this machine alone.
            if "%" not in str(found[0]):
                yield str(found[0])


def _dialled_from(control: str) -> Iterator[str]:
    """A UDP socket that is connected has looked up its route, and nothing was sent."""
    with contextlib.suppress(OSError, ValueError):
        url = urlsplit(control)
        for family, kind, proto, _, peer in socket.getaddrinfo(
            url.hostname, url.port, type=socket.SOCK_DGRAM
        ):
            with socket.socket(family, kind, proto) as probe:
                probe.connect(peer)
                yield str(probe.getsockname()[0])
