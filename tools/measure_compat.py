"""Measure compat's hot paths: microseconds per frame, per message, per handle.  Prints a table.

Usage: python tools/measure_compat.py
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from compat import xmldoc  # noqa: E402
from compat.libvirt import messages as m  # noqa: E402
from compat.libvirt.connection import Connection, Role  # noqa: E402
from compat.libvirt.constants import REMOTE_PROGRAM  # noqa: E402
from compat.libvirt.frames import frame  # noqa: E402
from compat.libvirt.schema import BY_NAME, domain_uuid, rewrite_domains  # noqa: E402
from compat.libvirt.typedparams import to_params  # noqa: E402

DOMAIN = m.RemoteNonnullDomain("web-server-01", bytes(range(16)), 7)
GET_STATE = BY_NAME["remote:DOMAIN_GET_STATE"]
LIST = BY_NAME["remote:CONNECT_LIST_ALL_DOMAINS"]


def best(action: Callable[[], Any], seconds: float = 0.2) -> float:
    """Return the least time of one call, in microseconds, over several rounds."""
    count = 1
    while (took := timed(action, count)) < seconds / 5:
        count *= 2
    return min([took, *(timed(action, count) for _ in range(4))]) / count * 1e6


def timed(action: Callable[[], Any], count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        action()
    return time.perf_counter() - started


def imported(module: str) -> float:
    """Return the milliseconds that importing a module takes in a new process."""
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    run = [sys.executable, "-c", code]
    return 1000 * min(float(subprocess.check_output(run, cwd=ROOT)) for _ in range(5))


def frames() -> list[tuple[str, float]]:
    """A call's way through a server and a reply's way through a client."""
    args = m.RemoteDomainGetStateArgs(DOMAIN, 0).to_bytes()
    server, client = Connection(Role.SERVER), Connection(Role.CLIENT)
    server.authenticated = True
    data = frame(REMOTE_PROGRAM, 1, GET_STATE.number, 0, 7, 0, args)
    ret = m.RemoteDomainGetStateRet(1, 1).to_bytes()

    def receive_and_answer() -> None:
        [call] = server.receive_data(data)
        server.reply(call, ret)  # type: ignore[arg-type]

    def call_and_receive() -> None:
        serial, _ = client.call(REMOTE_PROGRAM, GET_STATE.number, args)
        client.receive_data(frame(REMOTE_PROGRAM, 1, GET_STATE.number, 1, serial, 0, ret))

    big = frame(REMOTE_PROGRAM, 1, 1, 0, 0, 0, bytes(4 * 1024 * 1024))
    pieces = [big[at : at + 65536] for at in range(0, len(big), 65536)]
    return [
        ("server: one call in", best(lambda: server.receive_data(data))),
        ("server: one call in, reply out", best(receive_and_answer)),
        ("client: call out, reply in (and made)", best(call_and_receive)),
        ("server: 50 calls in one read, each", best(lambda: server.receive_data(data * 50)) / 50),
        ("server: 4 MiB in 64 KiB pieces", best(lambda: [server.receive_data(piece) for piece in pieces])),
    ]


def coding() -> list[tuple[str, float]]:
    """Messages to bytes and back, handles found and rewritten."""
    args = m.RemoteDomainGetStateArgs(DOMAIN, 0)
    data = args.to_bytes()
    listed = m.RemoteConnectListAllDomainsRet([DOMAIN] * 100, 100)
    many = listed.to_bytes()
    stats = {f"block.{n}.rd.bytes": 2**40 + n for n in range(60)} | {
        f"net.{n}.name": "vnet" for n in range(20)
    }
    record = m.RemoteDomainStatsRecord(DOMAIN, to_params(stats))  # type: ignore[arg-type]
    all_stats = m.RemoteConnectGetAllDomainStatsRet([record] * 10)
    stats_data = all_stats.to_bytes()
    error = m.VirNetMessageError(42, 10, "no domain", 2, None, "%s", "x", None, -1, -1, None)
    error_data = error.to_bytes()
    return [
        ("domain_uuid", best(lambda: domain_uuid(GET_STATE, data))),
        ("GET_STATE args to bytes", best(args.to_bytes)),
        ("GET_STATE args from bytes", best(lambda: m.RemoteDomainGetStateArgs.from_bytes(data))),
        ("error to bytes", best(error.to_bytes)),
        ("error from bytes", best(lambda: m.VirNetMessageError.from_bytes(error_data))),
        ("list of 100 domains to bytes", best(listed.to_bytes)),
        ("list of 100 domains from bytes", best(lambda: m.RemoteConnectListAllDomainsRet.from_bytes(many))),
        ("list of 100 domains, ids rewritten", best(lambda: rewrite_domains(LIST, "ret", many, other_id))),
        ("800 typed parameters to bytes", best(all_stats.to_bytes)),
        (
            "800 typed parameters from bytes",
            best(lambda: m.RemoteConnectGetAllDomainStatsRet.from_bytes(stats_data)),
        ),
        (
            "800 typed parameters, 10 ids rewritten",
            best(
                lambda: rewrite_domains(
                    BY_NAME["remote:CONNECT_GET_ALL_DOMAIN_STATS"], "ret", stats_data, other_id
                )
            ),
        ),
    ]


def other_id(uuid: bytes, node_id: int) -> int:
    return node_id + 1


def documents() -> list[tuple[str, float]]:
    disks = "".join(
        f"<disk type='file'><source file='/d{n}'/><target dev='vd{n}'/></disk>" for n in range(100)
    )
    text = f"<domain><name>web</name><devices>{disks}</devices></domain>"
    return [(f"XML document of {len(text)} bytes", best(lambda: xmldoc.parse(text)))]


def main() -> None:
    for name, value in frames() + coding() + documents():
        print(f"{name:42} {value:10.2f} µs")
    for module in ("compat.libvirt.connection", "compat.libvirt.messages.remote_connect", "compat.xmldoc"):
        print(f"import {module:35} {imported(module):10.1f} ms")


if __name__ == "__main__":
    main()
