"""A private libvirtd in namespaces, an in-process hub with a recording handler, agents as processes."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from clusterhost.control import messages as m
from clusterhost.control.hub import Hub, HubSettings
from clusterhost.control.keys import KeyPair, make_token, new_pair, save
from compat.libvirt.schema import BY_NAME
from compat.libvirt.xdr import Message

REPOSITORY = Path(__file__).parents[2]
_QEMU_CONF = """security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
"""
# It has to collect the dead: libvirtd waits until the QEMUs that it probed with are gone.
_FIRST_PROCESS = """
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    signal.pause()
"""
_LIBVIRTD_CONF = """auth_unix_rw = "none"
auth_unix_ro = "none"
log_outputs = "3:stderr"
"""


class PrivateLibvirtd:
    """libvirtd in a mount and pid namespace of its own; its state is below `directory`, seen from outside."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="clusterhost-control-"))
        binds = {"run": "/run", "lib": "/var/lib/libvirt", "etc": "/etc/libvirt", "log": "/var/log/libvirt"}
        binds["cache"] = "/var/cache/libvirt"
        for name in binds:
            (self.directory / name).mkdir()
        (self.directory / "etc/qemu.conf").write_text(_QEMU_CONF)
        (self.directory / "etc/libvirtd.conf").write_text(_LIBVIRTD_CONF)
        mounts = "; ".join(
            f"mkdir -p {target}; mount --bind {self.directory / name} {target}"
            for name, target in binds.items()
        )
        # Where /dev/kvm opens but runs no guest, QEMU's probe under it never ends.
        (self.directory / "nothing").touch()
        mounts += f"; test ! -e /dev/kvm || mount --bind -o ro {self.directory}/nothing /dev/kvm"
        script = f"{mounts}; touch {self.directory}/ready; exec {sys.executable} -c '{_FIRST_PROCESS}'"
        self._unshare = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script],
            # It complains at its end that it was killed together with its child.
            stderr=subprocess.DEVNULL,
        )
        self._nsenter: subprocess.Popen[bytes] | None = None
        wait_for((self.directory / "ready").exists)
        self._init = child_of(self._unshare.pid)
        self.start()

    @property
    def socket(self) -> Path:
        return self.directory / "run/libvirt/libvirt-sock"

    def uri(self, driver: str = "test", path: str = "/default") -> str:
        return f"{driver}+unix://{path}?socket={self.socket}"

    def inside(self, *argv: str) -> list[str]:
        """The command that runs argv in the namespaces."""
        return ["nsenter", "-t", str(self._init), "-m", "-p", *argv]

    def start(self) -> None:
        """Start libvirtd and wait until it accepts."""
        self.socket.unlink(missing_ok=True)
        log = os.open(self.directory / "libvirtd.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._nsenter = subprocess.Popen(
            self.inside("libvirtd", "-f", "/etc/libvirt/libvirtd.conf"), stderr=log, stdout=log
        )
        os.close(log)
        wait_for(self.socket.exists)

    @property
    def pid(self) -> int:
        """libvirtd's pid as seen from outside."""
        assert self._nsenter is not None
        return child_of(self._nsenter.pid)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)
        if number == signal.SIGCONT and self._nsenter is not None:
            # nsenter stops itself when its child is stopped.
            self._nsenter.send_signal(number)

    def stop_libvirtd(self) -> None:
        """End libvirtd; its guests go on."""
        assert self._nsenter is not None
        self.signal(signal.SIGTERM)
        self._nsenter.wait(timeout=20)

    def virsh(self, *args: str, uri: str = "") -> str:
        done = subprocess.run(
            ["virsh", "-q", "-c", uri or self.uri(), *args],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def close(self) -> None:
        os.kill(self._init, signal.SIGKILL)
        self._unshare.wait(timeout=10)
        if self._nsenter is not None:
            self._nsenter.wait(timeout=10)
        shutil.rmtree(self.directory, ignore_errors=True)


@dataclass
class Recorder:
    """service.ports.HubHandler that writes down what it is told, in order: (what, node, value)."""

    epoch: int = 1
    stale: dict[str, int] = field(default_factory=dict)
    told: list[tuple[str, str, Any]] = field(default_factory=list)
    beats: list[m.Beat] = field(default_factory=list)

    def on_hello(self, node: str, hello: m.Hello) -> m.Welcome:
        self.told.append(("hello", node, hello))
        return m.Welcome(m.PROTOCOL, self.epoch, stale=self.stale)

    def on_snapshot(self, node: str, snapshot: m.Snapshot) -> None:
        self.told.append(("snapshot", node, snapshot))

    def on_report(self, node: str, report: m.DomainReport) -> None:
        self.told.append(("report", node, report))

    def on_gone(self, node: str, uuid: bytes) -> None:
        self.told.append(("gone", node, uuid))

    def on_definition(self, node: str, uuid: bytes, xml: str) -> None:
        self.told.append(("definition", node, (uuid, xml)))

    def on_event(self, node: str, program: int, procedure: int, payload: bytes) -> None:
        self.told.append(("event", node, (program, procedure, payload)))

    def on_beat(self, node: str, beat: m.Beat) -> None:
        self.beats.append(beat)

    def on_lost(self, node: str, reason: str) -> None:
        self.told.append(("lost", node, reason))

    def on_register(self, node: str, public_key: str) -> None:
        self.told.append(("register", node, public_key))

    def values(self, what: str) -> list[Any]:
        return [value for kind, _, value in self.told if kind == what]

    async def until(self, ready: Callable[[], Any], seconds: float = 15.0) -> Any:
        """Wait until `ready()` is true; fails with what was told."""
        deadline = time.monotonic() + seconds
        while not (found := ready()):
            assert time.monotonic() < deadline, f"told so far: {self.told[-20:]}"
            await asyncio.sleep(0.01)
        return found


@dataclass
class AgentProcess:
    """An agent as a process of its own."""

    process: subprocess.Popen[bytes]
    pid: int
    log: Path

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)
        if number == signal.SIGCONT and self.process.pid != self.pid:
            self.process.send_signal(number)

    def stop(self) -> None:
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGCONT)
            os.kill(self.pid, signal.SIGKILL)
            self.process.wait(timeout=10)


class ControlPlane:
    """A hub on loopback, and what is needed to start agents that dial it."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.directory = directory
        self.keys = new_pair()
        self.handler = Recorder()
        self.hub = Hub(
            HubSettings("tcp://127.0.0.1:*", "tcp://127.0.0.1:*", **settings), self.keys, self.handler
        )
        self.nodes: dict[str, KeyPair] = {}
        self.joins: dict[str, str] = {}
        self.agents: list[AgentProcess] = []

    async def __aenter__(self) -> ControlPlane:
        await self.hub.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for agent in self.agents:
            agent.stop()
        await self.hub.stop()

    def allow(self, node: str) -> KeyPair:
        """A key pair that the hub knows as that of the node."""
        self.nodes[node] = new_pair()
        self.tell_keys()
        return self.nodes[node]

    def tell_keys(self) -> None:
        self.hub.set_keys({node: pair.public for node, pair in self.nodes.items()}, self.joins)

    def token(self, node: str) -> str:
        """A one-time join token."""
        pair = new_pair()
        self.joins[pair.public] = node
        self.tell_keys()
        control, bulk = self.hub.endpoints
        return make_token(node, control, bulk, self.keys.public, pair.secret)

    def agent(
        self,
        node: str,
        uri: str,
        *,
        inside: PrivateLibvirtd | None = None,
        name: str = "",
        token: str = "",
        keys: KeyPair | None = None,
        **more: object,
    ) -> AgentProcess:
        """Start an agent; name: of its state directory, so that it can be started again with the same; more: of its
        settings."""
        state = self.directory / f"agent-{name or node}"
        state.mkdir(exist_ok=True)
        if keys is None and not token:
            keys = self.nodes.get(node) or self.allow(node)
        if keys is not None:
            save(state / "agent.key", keys)
        control, bulk = self.hub.endpoints
        settings = {
            "node": node,
            "uri": uri,
            "control": control,
            "bulk": bulk,
            "state_dir": str(state),
            "key_file": str(state / "agent.key"),
            "server_key": self.keys.public,
            "nameserver": "",
            "token": token,
            "migration_address": "127.0.0.1",
            "underlay_address": "",
            "peer_dir": str(self.directory / "peers"),
            "images_address": "",
            "images_port": 0,
            "images_sending_mib": 0.0,
            "images_receiving_mib": 0.0,
            "has_files": inside is not None,
            **more,
        }
        argv = [sys.executable, "-m", "tests.support.control", json.dumps(settings)]
        if inside is not None:
            argv = inside.inside(*argv)
        log = state / "log"
        with log.open("ab") as output:
            process = subprocess.Popen(argv, cwd=REPOSITORY, stdout=output, stderr=output)
        pid = process.pid if inside is None else child_of(process.pid)
        self.agents.append(AgentProcess(process, pid, log))
        return self.agents[-1]

    async def up(self, node: str) -> m.Snapshot:
        """Wait for a snapshot of a libvirtd that answers."""
        found = await self.handler.until(
            lambda: [s for kind, n, s in self.handler.told if kind == "snapshot" and n == node and s.virt_up]
        )
        return found[-1]

    async def call(self, node: str, name: str, args: Message | None = None, **options: Any) -> Any:
        """Call "program:NAME" and decode the result; an error answer is an AssertionError."""
        answer = await self.hub.call(node, *number(name), args.to_bytes() if args else b"", **options)
        assert answer.ok, answer.payload
        kind = BY_NAME[name].ret
        return kind.from_bytes(answer.payload) if kind is not None else None


def number(name: str) -> tuple[int, int]:
    """Program and procedure number of "program:NAME"."""
    found = BY_NAME[name]
    return found.program_id, found.number


def child_of(pid: int, seconds: float = 5.0) -> int:
    """The first child of a process."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    wait_for(lambda: path.read_text().split(), seconds)
    return int(path.read_text().split()[0])


def wait_for(ready: Callable[[], Any], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"{ready} did not come true within {seconds} s"
        time.sleep(0.01)


def agent_main(settings: dict[str, Any]) -> None:
    """Be an agent: the child process's entry."""
    import logging

    import uvloop

    from clusterhost.agent.agent import run

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    paths = {name: Path(settings[name]) for name in ("state_dir", "key_file", "peer_dir")}
    uvloop.run(run(SimpleNamespace(**{**settings, **paths})))


__all__ = ["AgentProcess", "ControlPlane", "PrivateLibvirtd", "Recorder", "fields", "number", "wait_for"]

if __name__ == "__main__":
    agent_main(json.loads(sys.argv[1]))
