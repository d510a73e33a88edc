"""Workers in network namespaces on one bridge; nothing of them stays."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.imagemgr.lab import Worker
from tests.cluster.netmgr.lab import Space, sh

Make = Callable[..., Worker]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Make]:
    """`node("a", SENDING=...)`: a worker that runs, in a namespace of its own; the variables are its program's."""
    if os.geteuid():
        pytest.skip("needs root for network namespaces")
    prefix = f"im{os.getpid() % 10000}-"
    with contextlib.ExitStack() as undo:
        wire = Space(f"{prefix}wire")
        undo.callback(wire.delete)
        wire("ip", "link", "add", "u", "type", "bridge")
        wire("ip", "link", "set", "u", "up")
        made: list[Worker] = []

        def make(name: str, **env: object) -> Worker:
            space = Space(prefix + name)
            undo.callback(space.delete)
            address, port = f"10.98.0.{len(made) + 1}", f"p{len(made)}"
            sh(
                *("ip", "link", "add", port, "netns", wire.name, "type", "veth"),
                *("peer", "eth0", "netns", space.name),
            )
            wire("ip", "link", "set", port, "master", "u", "up")
            space("ip", "addr", "add", address + "/24", "dev", "eth0")
            space("ip", "link", "set", "eth0", "up")
            worker = Worker(name, tmp_path, address, space)
            made.append(worker)
            undo.callback(worker.kill)
            worker.up(**env)
            return worker

        yield make
