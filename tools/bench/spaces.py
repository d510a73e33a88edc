"""Network namespaces beside a node's guests, plugged into its bridges; commands on nodes.  Knows no network of ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from tools.bench.scene import SceneFailed

OVERLAY_ID, OVERLAY_PORT = 4242, 4999


class Space:
    """A namespace with one link, in which tools.bench.inside runs."""

    def __init__(self, process: subprocess.Popen[str], link: str) -> None:
        self._process = process
        self.link = link

    def __call__(self, command: str, *arguments: object) -> Any:
        """Have one of inside.COMMANDS done; SceneFailed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps((command, arguments)) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SceneFailed(f"{command} failed in a namespace")
        return json.loads(line)


def on(pid: int, *words: str, check: bool = True) -> str:
    """Run a command in the network namespace of a node, by the pid of its first process.  SceneFailed."""
    done = subprocess.run(
        ["nsenter", "-t", str(pid), "-n", *words], capture_output=True, text=True, timeout=20, check=False
    )
    if check and done.returncode:
        raise SceneFailed(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


@contextmanager
def plugged(pid: int, bridge: str, mac: str, address: str = "", mtu: int = 1450) -> Iterator[Space]:
    """A namespace whose link, with that MAC, is a port of a bridge of the node; address: with prefix."""
    port = "b" + mac.replace(":", "")
    link = "eth0"
    command = ["nsenter", "-t", str(pid), "-n", "unshare", "-n", sys.executable, "-m", "tools.bench.inside"]
    with ExitStack() as undo:
        on(pid, *f"ip link add {port} mtu {mtu} master {bridge} up type veth peer name x{port[1:]}".split())
        undo.callback(on, pid, "ip", "link", "del", port, check=False)
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        undo.callback(_end, process)
        space = Space(process, link)
        on(pid, *f"ip link set x{port[1:]} netns {_ready(process, pid)}".split())
        for words in (
            f"ip link set x{port[1:]} name {link} address {mac} mtu {mtu} up",
            f"ip addr add {address} dev {link}" if address else "true",
        ):
            on(process.pid, *words.split())
        yield space


@contextmanager
def hand_made(ends: tuple[tuple[int, str], tuple[int, str]], mtu: int) -> Iterator[str]:
    """A bridge with a VXLAN link between two nodes (pid, underlay address), as one would make it; the bridge's name."""
    with ExitStack() as undo:
        for (pid, local), (_, remote) in (ends, ends[::-1]):
            vxlan = f"vxlan id {OVERLAY_ID} local {local} remote {remote} dstport {OVERLAY_PORT}"
            for words in (
                f"ip link add benchbr mtu {mtu} up type bridge",
                f"ip link add benchvx mtu {mtu} type {vxlan}",
                "ip link set benchvx master benchbr up",
            ):
                on(pid, *words.split())
                undo.callback(on, pid, "ip", "link", "del", words.split()[3], check=False)
        yield "benchbr"


def _ready(process: subprocess.Popen[str], pid: int) -> int:
    """nsenter and unshare become the program, which is in its namespace once it differs from the node's."""
    deadline = time.monotonic() + 10
    node = os.stat(f"/proc/{pid}/ns/net").st_ino
    own = os.stat("/proc/self/ns/net").st_ino
    while time.monotonic() < deadline:
        if os.stat(f"/proc/{process.pid}/ns/net").st_ino not in (node, own):
            return process.pid
        time.sleep(0.01)
    raise SceneFailed("a namespace was not made")


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()
