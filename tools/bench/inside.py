"""What is done inside a network namespace: JSON commands on standard input, one answer for each.  Knows no cluster."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PIECE = bytes(1 << 18)
PORT = 5001
_COOKIE = b"\x63\x82\x53\x63"
_TYPE, _WANTED, _SERVER, _END = 53, 50, 54, b"\xff"
_DISCOVER, _OFFER, _REQUEST, _ACK = 1, 2, 3, 5
_BROADCAST = 0x8000
_PATIENCE = 5.0
TRIES, _AGAIN = 15, 1.0
"""A bridge that looks for loops lets nothing through at first."""


def sink() -> int:
    """Take what comes to PORT, and drop it, from now on."""
    listener = socket.create_server(("0.0.0.0", PORT), backlog=4)

    def serve() -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                got, began = 0, time.perf_counter()
                while count := connection.recv_into(buffer):
                    got += count
                connection_rates.append(got / (time.perf_counter() - began))

    buffer = bytearray(1 << 18)
    threading.Thread(target=serve, daemon=True).start()
    return PORT


connection_rates: list[float] = []


def rate() -> float:
    """Bytes by second of the connection that ended last; waits for it."""
    deadline = time.monotonic() + _PATIENCE
    while not connection_rates and time.monotonic() < deadline:
        time.sleep(0.01)
    return connection_rates.pop()


def send(address: str, seconds: float) -> int:
    """Send zeros for so long; how many."""
    sent, end = 0, time.perf_counter() + seconds
    with socket.create_connection((address, PORT), timeout=_PATIENCE) as connection:
        while time.perf_counter() < end:
            sent += connection.send(PIECE)
    return sent


def dhcp(link: str, mac: str) -> float:
    """Seconds from DISCOVER to ACK for a MAC, by UDP: the answers are asked for as broadcasts."""
    # Without an address of our own, no answer comes from where it should.
    Path(f"/proc/sys/net/ipv4/conf/{link}/rp_filter").write_text("0")
    Path("/proc/sys/net/ipv4/conf/all/rp_filter").write_text("0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.encode())
        client.bind(("", 68))
        client.settimeout(_AGAIN)
        number = os.urandom(4)
        began = time.perf_counter()
        offer, server = _ask(client, _message(number, mac, _DISCOVER), number, _OFFER)
        wanted = bytes([_WANTED, 4]) + offer + bytes([_SERVER, 4]) + server
        _ask(client, _message(number, mac, _REQUEST, wanted), number, _ACK)
        return time.perf_counter() - began


def _message(number: bytes, mac: str, kind: int, options: bytes = b"") -> bytes:
    head = struct.pack("!BBBB4sHH16s", 1, 1, 6, 0, number, 0, _BROADCAST, b"")
    body = head + bytes.fromhex(mac.replace(":", "")).ljust(208, b"\0") + _COOKIE
    return body + bytes([_TYPE, 1, kind]) + options + _END


def _ask(client: socket.socket, message: bytes, number: bytes, kind: int) -> tuple[bytes, bytes]:
    """The address that is offered, and the server that offers it."""
    for _ in range(TRIES):
        client.sendto(message, ("255.255.255.255", 67))
        with contextlib.suppress(TimeoutError):
            while True:
                data = client.recv(2048)
                options = _options(data[240:])
                if data[4:8] == number and options.get(_TYPE) == bytes([kind]):
                    return data[16:20], options[_SERVER]
    raise TimeoutError("no DHCP server answered")


def _options(data: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at < len(data) and data[at] != _END[0]:
        found[data[at]] = data[at + 2 : at + 2 + data[at + 1]]
        at += 2 + data[at + 1]
    return found


COMMANDS: dict[str, Callable[..., Any]] = {"sink": sink, "rate": rate, "send": send, "dhcp": dhcp}


def main() -> None:
    """Until the input ends."""
    for line in sys.stdin:
        name, arguments = json.loads(line)
        print(json.dumps(COMMANDS[name](*arguments)), flush=True)


if __name__ == "__main__":
    main()
