"""A DHCPv6 client that asks once: prints the address it is given.  `python -m tests.cluster.netmgr.dhcp6 LINK MAC`.

RFC 8415: Solicit, Advertise, Request, Reply, with a DUID made of the MAC.
"""

from __future__ import annotations

import socket
import struct
import sys

ALL_SERVERS = "ff02::1:2"
SOLICIT, ADVERTISE, REQUEST, REPLY = 1, 2, 3, 7
CLIENT_ID, SERVER_ID, IA_NA, IA_ADDRESS, ELAPSED = 1, 2, 3, 5, 8
TRANSACTION = b"abc"


def option(kind: int, value: bytes) -> bytes:
    """One option."""
    return struct.pack("!HH", kind, len(value)) + value


def options(data: bytes) -> dict[int, bytes]:
    """Options by their kind."""
    found = {}
    while len(data) >= 4:
        kind, length = struct.unpack_from("!HH", data)
        found[kind], data = data[4 : 4 + length], data[4 + length :]
    return found


def ask(connection: socket.socket, scope: int, kind: int, answer: int, rest: bytes) -> dict[int, bytes]:
    """Send until the right answer comes; its options."""
    for _ in range(5):
        connection.sendto(bytes([kind]) + TRANSACTION + rest, (ALL_SERVERS, 547, 0, scope))
        try:
            data = connection.recv(4096)
        except TimeoutError:
            continue
        if data[:4] == bytes([answer]) + TRANSACTION:
            return options(data[4:])
    raise SystemExit("no answer")


def main(link: str, mac: str) -> None:
    """Get an address."""
    scope = socket.if_nametoindex(link)
    wish = option(CLIENT_ID, b"\0\3\0\1" + bytes.fromhex(mac.replace(":", ""))) + option(ELAPSED, b"\0\0")
    wish += option(IA_NA, struct.pack("!III", 1, 0, 0))
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as connection:
        connection.bind(("::", 546, 0, scope))
        connection.settimeout(1)
        advertised = ask(connection, scope, SOLICIT, ADVERTISE, wish)
        wish += option(SERVER_ID, advertised[SERVER_ID])
        given = options(ask(connection, scope, REQUEST, REPLY, wish)[IA_NA][12:])
    print(socket.inet_ntop(socket.AF_INET6, given[IA_ADDRESS][:16]))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
