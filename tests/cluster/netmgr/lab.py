"""Nodes and guests that are network namespaces: an underlay, an outside, and Keepers in between."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec

from netmgr.wanted import GuestGone, WantedGuest, WantedNetwork, WantedSubnet

OUTSIDE = "203.0.113.1"
UUID = "11111111-2222-3333-4444-5555555555{:02x}"
GATEWAY_MAC = "52:54:00:aa:bb:{:02x}"
_DHCP_SCRIPT = """#!/bin/sh
# Called by udhcpc: sets what it was given, and says so.
case $1 in bound|renew) ;; *) exit 0 ;; esac
ip -4 addr flush dev $interface
ip addr add $ip/$mask dev $interface
[ -n "$mtu" ] && ip link set $interface mtu $mtu
[ -n "$router" ] && ip route replace default via $router
echo "$1 ip=$ip router=$router mtu=$mtu server=$serverid dns=$dns name=$hostname domain=$domain lease=$lease" >> $LOG
"""


def sh(*argv: str, text: str = "", check: bool = True, seconds: float = 20) -> str:
    """Run a program; its output."""
    done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=seconds, check=False)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(argv)}: {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def until(check: Callable[[], object], seconds: float, what: str) -> float:
    """Wait until it is so; seconds that it took."""
    began = time.monotonic()
    while not check():
        if time.monotonic() - began > seconds:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.02)
    return time.monotonic() - began


class Space:
    """A network namespace."""

    def __init__(self, name: str) -> None:
        self.name = name
        sh("ip", "netns", "add", name)
        self("ip", "link", "set", "lo", "up")

    def __call__(self, *argv: str, **options: Any) -> str:
        return sh(*self.enter, *argv, **options)

    @property
    def enter(self) -> tuple[str, ...]:
        """A command line's beginning: what follows runs in it."""
        return "ip", "netns", "exec", self.name

    def start(self, *argv: str, env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
        """A program in it; it is the child itself, for ip(8) becomes it."""
        return subprocess.Popen([*self.enter, *argv], text=True, env={**os.environ, **(env or {})}, **options)

    def delete(self) -> None:
        sh("ip", "netns", "del", self.name)

    def pings(self, address: str, *options: str, count: int = 1) -> bool:
        """Every one of `count` pings is answered."""
        command = ("ping", "-n", "-c", str(count), "-i", "0.1", "-W", "1", *options, address)
        out = self(*command, check=False)
        return f"{count} received" in out


class Node(Space):
    """A node: a namespace, and a Keeper as a program in it."""

    def __init__(self, lab: Lab, number: int) -> None:
        super().__init__(f"{lab.prefix}n{number}")
        self.number, self.lab = number, lab
        self.address = f"10.99.0.{number}"
        self.state = lab.directory / f"n{number}"
        self.process: subprocess.Popen[str] | None = None
        lab.plug(self, "under", "u", self.address + "/24")
        lab.plug(self, "out0", "o", f"203.0.113.{10 + number}/24")

    def up(self, *, run: bool = False, crash_after: int = 0) -> list[str]:
        """Start the Keeper; networks that it knows."""
        env = {"CRASH_AFTER": str(crash_after)}
        if run:
            env["RUN"] = "1"
        self.process = self.start(
            sys.executable,
            "-m",
            "tests.cluster.netmgr.node",
            str(self.state),
            self.address,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        return list(json.loads(self.process.stdout.readline())["networks"])

    def down(self) -> None:
        """Kill it, as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    @contextlib.contextmanager
    def asleep(self) -> Iterator[None]:
        """The Keeper does nothing meanwhile."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def order(self, what: str, **rest: Any) -> dict[str, Any]:
        """The answer to an order; "crashed" when none comes."""
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(msgspec.json.encode({"do": what, **rest}).decode() + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            self.process.communicate()
            self.process = None
            return {"crashed": True}
        return dict(json.loads(line))

    def obey(self, what: str, **rest: Any) -> dict[str, Any]:
        """The same, and it must be well."""
        answer = self.order(what, **rest)
        result = answer.get("result")
        well = all(
            not each.get("reason") for each in (result if isinstance(result, list) else [result or {}])
        )
        assert "error" not in answer, answer
        assert well, answer
        return answer

    def set(self, wanted: WantedNetwork) -> dict[str, Any]:
        return self.obey("set", wanted=wanted)

    def guest(self, uuid: str, guest: WantedGuest | GuestGone) -> dict[str, Any]:
        return self.obey("guest", uuid=uuid, guest=guest)

    def dnsmasq(self, uuid: str) -> int:
        """Its process, 0 when none runs."""
        try:
            pid = int((self.state / "dnsmasq" / uuid / "pid").read_text())
            return pid if b"dnsmasq" in Path(f"/proc/{pid}/cmdline").read_bytes() else 0
        except (OSError, ValueError):
            return 0

    @contextlib.contextmanager
    def sniffing(self, link: str) -> Iterator[list[dict[str, Any]]]:
        """Frames that pass a link, filled in at the end."""
        program = (sys.executable, "-m", "tests.cluster.netmgr.sniff", link)
        process = self.start(*program, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        frames: list[dict[str, Any]] = []
        try:
            yield frames
            time.sleep(0.2)
        finally:
            process.terminate()
            out, _ = process.communicate()
            frames += [json.loads(line) for line in out.splitlines() if line.endswith("}")]


class Guest(Space):
    """A guest: a namespace with one interface, plugged into a bridge."""

    def __init__(self, lab: Lab, name: str, node: Node, bridge: str, mac: str, *, mtu: int = 1450) -> None:
        super().__init__(f"{lab.prefix}{name}")
        self.mac, self.tap, self.lab = mac, f"vm-{name}", lab
        self.log = lab.directory / f"{name}.dhcp"
        self.client: subprocess.Popen[str] | None = None
        sh(
            "ip",
            "link",
            "add",
            self.tap,
            "netns",
            node.name,
            "type",
            "veth",
            "peer",
            "eth0",
            "netns",
            self.name,
        )
        self("ip", "link", "set", "eth0", "address", mac, "mtu", str(mtu), "up")
        node("ip", "link", "set", self.tap, "mtu", str(mtu), "master", bridge, "up")
        self.node = node

    def move(self, node: Node, bridge: str) -> None:
        """Its cable goes to another node; nothing changes inside."""
        self.node("ip", "link", "set", self.tap, "nomaster", "netns", node.name)
        node("ip", "link", "set", self.tap, "master", bridge, "up")
        self.node = node

    def fixed(self, *addresses: str, gateway: str = "") -> None:
        """Addresses by hand."""
        for address in addresses:
            nodad = ("nodad",) if ":" in address else ()
            self("ip", "addr", "add", address, "dev", "eth0", *nodad)
        if gateway:
            self("ip", "route", "add", "default", "via", gateway)

    def dhcp(self) -> dict[str, str]:
        """Ask for an address and stay; what was given."""
        self.log.unlink(missing_ok=True)
        script = self.lab.directory / "dhcp.sh"
        command = (
            "busybox",
            "udhcpc",
            "-i",
            "eth0",
            "-f",
            "-s",
            str(script),
            "-t",
            "5",
            "-T",
            "1",
            "-A",
            "1",
        )
        env = {"LOG": str(self.log)}
        self.client = self.start(*command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return self.told(1)

    def told(self, count: int) -> dict[str, str]:
        """The last of `count` answers, as soon as it is there."""
        until(lambda: len(self._answers()) >= count, 12, f"{self.name} has {count} DHCP answers")
        event, _, rest = self._answers()[-1].partition(" ")
        return {"event": event, **dict(part.partition("=")[::2] for part in rest.split())}

    def renew(self) -> dict[str, str]:
        """Ask again, as at half of the lease's time."""
        before = len(self._answers())
        assert self.client is not None
        self.client.send_signal(signal.SIGUSR1)
        return self.told(before + 1)

    def asks(self, name: str, server: str, kind: str = "a") -> str:
        """What a name server says."""
        if kind == "ptr":
            name = ip_address(name).reverse_pointer
        return self("busybox", "nslookup", f"-type={kind}", name, server, check=False)

    def _answers(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def end(self) -> None:
        if self.client is not None:
            self.client.kill()
            self.client.wait()


class Lab:
    """An underlay (u) and an outside (o) as bridges in a namespace of their own; close it."""

    def __init__(self, directory: Path) -> None:
        self.prefix = f"nm{os.getpid() % 10000}-"
        self.directory = directory
        self.spaces: list[Space] = []
        self.undo = contextlib.ExitStack()
        script = directory / "dhcp.sh"
        script.write_text(_DHCP_SCRIPT)
        script.chmod(0o755)
        self.wire = self._space(Space(f"{self.prefix}wire"))
        for bridge in ("u", "o"):
            self.wire("ip", "link", "add", bridge, "type", "bridge")
            self.wire("ip", "link", "set", bridge, "up")
        self.outside = self._space(Space(f"{self.prefix}out"))
        self.plug(self.outside, "eth0", "o", OUTSIDE + "/24")

    def _space(self, space: Any) -> Any:
        self.undo.callback(space.delete)
        self.spaces.append(space)
        return space

    def plug(self, space: Space, name: str, bridge: str, address: str) -> None:
        """A cable from a namespace to a bridge of the wire."""
        port = f"{bridge}{len(self.wire('ip', '-o', 'link').splitlines())}"
        sh(
            "ip",
            "link",
            "add",
            port,
            "netns",
            self.wire.name,
            "type",
            "veth",
            "peer",
            name,
            "netns",
            space.name,
        )
        self.wire("ip", "link", "set", port, "master", bridge, "up")
        space("ip", "addr", "add", address, "dev", name)
        space("ip", "link", "set", name, "up")

    def node(self, number: int, **options: Any) -> Node:
        node: Node = self._space(Node(self, number))
        self.undo.callback(self._end_node, node)
        node.up(**options)
        return node

    def guest(self, name: str, node: Node, wanted: WantedNetwork, mac: str, **options: Any) -> Guest:
        guest: Guest = self._space(Guest(self, name, node, wanted.bridge, mac, **options))
        self.undo.callback(guest.end)
        return guest

    def _end_node(self, node: Node) -> None:
        node.down()
        for path in (node.state / "dnsmasq").glob("*"):
            if pid := node.dnsmasq(path.name):
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        self.undo.close()


def network(number: int = 1, **changes: Any) -> WantedNetwork:
    """A NAT network 192.168.N.0/24 with DHCP."""
    values: dict[str, Any] = {
        "uuid": UUID.format(number),
        "name": f"net{number}",
        "serial": 1,
        "vni": 0x100 + number,
        "bridge": f"virbr{number}",
        "mac": GATEWAY_MAC.format(number),
        "mode": "nat",
        "subnets": (WantedSubnet(f"192.168.{number}.1/24", dhcp=True),),
    }
    return WantedNetwork(**{**values, **changes})


def at(wanted: WantedNetwork, node: Node, nodes: tuple[Node, ...]) -> WantedNetwork:
    """A network as one node shall have it: places that are its own become "", peers are the others."""
    guests = tuple(
        msgspec.structs.replace(guest, place="" if guest.place == node.address else guest.place)
        for guest in wanted.guests
    )
    peers = tuple(other.address for other in nodes if other is not node)
    return msgspec.structs.replace(wanted, guests=guests, peers=peers)


def member(number: int, last: int, node: Node, *names: str, **changes: Any) -> WantedGuest:
    """A guest of network `number` with address .last, at a node."""
    values: dict[str, Any] = {
        "mac": f"02:00:c0:a8:{number:02x}:{last:02x}",
        "addresses": (f"192.168.{number}.{last}",),
        "names": names,
        "place": node.address,
        "serial": 1,
    }
    return WantedGuest(**{**values, **changes})


def traces(node: Node) -> list[str]:
    """Whatever a network may leave on a node."""
    links = [line.split()[1] for line in node("ip", "-o", "link").splitlines()]
    names = [name for name in links if name.startswith(("virbr", "ch", "cb", "co"))]
    files = [str(path) for path in node.state.rglob("*") if path.is_file()]
    servers = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(node.state).encode() in path.read_bytes() and b"dnsmasq" in path.read_bytes():
                servers.append(str(path))
        except OSError:
            continue
    return [*names, *node("nft", "list", "tables").splitlines(), *files, *servers]
