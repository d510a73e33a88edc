"""The demo cluster: bring it up and down, cut and restore a node's power, cut and heal its network."""

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusterhost.demo import bare, cgroups, front, machines, processes
from clusterhost.demo import guest as guests
from clusterhost.demo.layout import FRONT, DemoError, Layout, layout, node_address, node_names

Progress = Callable[[str], None]
_LOCK_SECONDS = 30.0
_OWN_ENTRIES = ("nodes", FRONT, "guest", "shared", "run.json")


@dataclass(frozen=True)
class DemoInfo:
    """A demo that is up; `endpoint` is the cluster's URI, None for nodes without a front end."""

    state: Path
    nodes: tuple[str, ...]
    endpoint: str | None
    guest: guests.Guest


@dataclass(frozen=True)
class NodeFacts:
    """What is seen of a node; `state` is on, off or partitioned, `pid` the host's of its first process."""

    name: str
    address: str
    state: str
    pid: int | None
    socket: Path
    uri: str


def up(
    state: Path, nodes: int, progress: Progress = print, *, front_end: bool = True, store: str = ""
) -> DemoInfo:
    """Bring a demo up in `state`, a new or empty directory; a complete demo there is only described.

    store: the URL of a database, in place of a file in `state`.

    Raises DemoError when `state` holds anything else, and GuestPartsMissing when a package is missing.
    """
    if os.geteuid() != 0:
        raise DemoError(f"user id {os.geteuid()} cannot make namespaces and mounts, the demo needs root")
    paths = layout(state)
    wanted = node_names(nodes)
    _claim(paths)
    with _locked(paths):
        if (info := _complete(paths)) is not None:
            if info.nodes != wanted:
                raise DemoError(
                    f"{paths.state} holds a demo of {len(info.nodes)} nodes, {nodes} were asked for"
                )
            progress(f"the demo in {paths.state} is already up")
            return info
        _refuse_used(paths)
        progress("making the guest image")
        guest = guests.prepare(paths.guest)
        progress(f"guests run as domains of type {guest.domain_type}")
        _start_nodes(paths, wanted, guest, progress)
        endpoint = _start_cluster(paths, wanted, progress, store) if front_end else None
        _record(paths, wanted, endpoint)
        return DemoInfo(paths.state, wanted, endpoint, guest)


def down(state: Path, progress: Progress = print) -> None:
    """End everything of the demo in `state` and remove its files, whatever crashed; no demo is no error."""
    paths = layout(state)
    if not paths.marker.exists():
        if paths.state.exists() and any(paths.state.iterdir()):
            raise DemoError(f"{paths.state} holds no demo")
        return
    with _locked(paths):
        progress(f"ended {processes.kill_marked(paths.state)} processes")
        cgroups.remove(paths.state)
        for name in _OWN_ENTRIES:
            _remove(paths.state / name)
        paths.lock.unlink(missing_ok=True)
        paths.marker.unlink()
    if not any(paths.state.iterdir()):
        paths.state.rmdir()
    progress(f"nothing is left of the demo in {paths.state}")


def status(state: Path) -> list[NodeFacts]:
    """Return the facts of each node; raises DemoError where no demo is."""
    paths = layout(state)
    return [_facts(paths, name) for name in _known(paths)]


def add_bare_node(state: Path, name: str) -> str:
    """Boot one more machine, with nothing but libvirtd and sshd, in no cluster yet; return its URI over ssh.

    `name` is n and a number that is free; the URI works on the front machine, where the cluster runs.
    """
    paths = layout(state)
    with _locked(paths):
        known = _known(paths)
        if name in known or not re.fullmatch(r"n[1-9]\d?", name):
            raise DemoError(f"{name} cannot be a new node: n1 to n99 can, but for {', '.join(known)}")
        wanted = (*known, name)
        record = json.loads(paths.run_file.read_text())
        _record(paths, wanted, record["endpoint"])
        bare.start(paths, name, wanted, kvm=guests.load(paths.guest).domain_type == "kvm")
    return f"qemu+ssh://root@{name}/system"


def remove_node(state: Path, name: str) -> None:
    """Take a machine away with all that is on it; the cluster is not told."""
    paths = _with_node(state, name)
    with _locked(paths):
        left = tuple(node for node in _known(paths) if node != name)
        machines.cut(paths, name)
        cgroups.remove(paths.state, name)
        _remove(paths.machine(name))
        _record(paths, left, json.loads(paths.run_file.read_text())["endpoint"])
        machines.write_hosts(paths, left)


def power_cut(state: Path, node: str) -> None:
    """Take a node's power at once, as pulling its plug does; does nothing when it is off."""
    machines.cut(_with_node(state, node), node)


def power_on(state: Path, node: str) -> None:
    """Boot a node that is off and wait until its libvirtd answers; what was on its disks is still there."""
    paths = _with_node(state, node)
    machines.boot(paths, node)
    machines.wait_for_socket(paths, node)
    if _cable_pulled(paths, node).exists():
        partition(state, node)


def partition(state: Path, node: str) -> None:
    """Cut a node's network, both ways and without a reset, until `heal`; a power cut does not heal it."""
    paths = _with_node(state, node)
    _cable_pulled(paths, node).touch()
    if (init := processes.machine_init(paths.state, paths.machine(node))) is not None:
        machines.partition(init)


def heal(state: Path, node: str) -> None:
    """Undo `partition`; does nothing when there was none."""
    paths = _with_node(state, node)
    _cable_pulled(paths, node).unlink(missing_ok=True)
    if (init := processes.machine_init(paths.state, paths.machine(node))) is not None:
        machines.heal(init)


def node_uri(state: Path, node: str) -> str:
    """Return the URI of the node's own libvirtd, for any client on this machine."""
    return f"qemu+unix:///system?socket={layout(state).node_socket(node)}"


def service_pid(state: Path, machine: str, service: str) -> int | None:
    """Return the host's pid of a service: libvirtd or agent of a node, front-end of machine "front"."""
    return machines.service_pid(layout(state), machine, service)


def stop_service(state: Path, machine: str, service: str, seconds: float = 10.0) -> None:
    """End a service with SIGTERM and leave it ended; returns when it is gone, killing it after `seconds`."""
    paths = layout(state)
    machines.change_service(paths, machine, service, enabled=False)
    deadline = time.monotonic() + seconds
    while (pid := machines.service_pid(paths, machine, service)) is not None:
        if time.monotonic() > deadline:
            processes.kill(pid)
        time.sleep(0.02)


def start_service(
    state: Path, machine: str, service: str, *, env: dict[str, str] | None = None, restart: bool = True
) -> None:
    """Start a service that does not run, with `env` added to its environment; `restart` false: only once."""
    machines.change_service(layout(state), machine, service, enabled=True, env=env or {}, restart=restart)


def restart_front(state: Path, env: dict[str, str] | None = None, *, again: bool = True) -> float:
    """Kill the front end with SIGKILL if it runs, start it with `env` added to its environment.

    Returns when it answers: the seconds since it was started.  again: it is started again when it ends."""
    return front.restart(layout(state), env or {}, again=again)


def kill_service(state: Path, machine: str, service: str) -> None:
    """Kill a service with SIGKILL; its machine starts it again as it is told to."""
    machines.kill_service(layout(state), machine, service)


def ask(state: Path, call: str, **args: object) -> Any:
    """Call the front end's admin socket; DemoError for an error, OSError when nobody answers."""
    return front.ask(layout(state), call, args)


def _start_nodes(paths: Layout, wanted: tuple[str, ...], guest: guests.Guest, progress: Progress) -> None:
    paths.shared.mkdir(exist_ok=True)
    machines.create_front(paths, wanted, [bare.write_client(paths)])
    machines.boot(paths, FRONT)
    progress("made the bridge between the nodes")
    for name in wanted:
        machines.create_node(paths, name, wanted, kvm=guest.domain_type == "kvm")
        machines.boot(paths, name)
    for name in wanted:
        machines.wait_for_socket(paths, name)
        progress(f"node {name} is up: {node_uri(paths.state, name)}")


def _start_cluster(paths: Layout, wanted: tuple[str, ...], progress: Progress, store: str) -> str:
    front.start_front_end(paths, store)
    progress(f"the front end answers: {front.endpoint(paths)}")
    front.start_agents(paths, wanted)
    progress(f"{len(wanted)} nodes have joined: see `clusterhost node list --config {front.config(paths)}`")
    return front.endpoint(paths)


def _claim(paths: Layout) -> None:
    """Make the state directory ours, or refuse one that holds something else."""
    if not paths.marker.exists():
        if paths.state.exists() and any(paths.state.iterdir()):
            raise DemoError(
                f"{paths.state} is not empty and holds no demo, a new or empty directory is needed"
            )
        paths.state.mkdir(parents=True, exist_ok=True)
        paths.marker.write_text(
            "This directory belongs to `clusterhost demo`; `demo down` removes what it holds.\n"
        )


def _refuse_used(paths: Layout) -> None:
    if paths.nodes.exists() or paths.front.exists():
        message = f"{paths.state} holds a demo that is not complete"
        raise DemoError(f"{message}: run `clusterhost demo down --state {paths.state}` first")


def _complete(paths: Layout) -> DemoInfo | None:
    """Return the demo that was brought up in full; nodes that lost power later do not make it incomplete."""
    if not paths.run_file.exists() or processes.machine_init(paths.state, paths.front) is None:
        return None
    record = json.loads(paths.run_file.read_text())
    return DemoInfo(paths.state, tuple(record["nodes"]), record["endpoint"], guests.load(paths.guest))


def _record(paths: Layout, nodes: tuple[str, ...], endpoint: str | None) -> None:
    paths.run_file.write_text(json.dumps({"nodes": nodes, "endpoint": endpoint}) + "\n")


def _known(paths: Layout) -> tuple[str, ...]:
    if not paths.run_file.exists():
        raise DemoError(f"no demo is up in {paths.state}")
    return tuple(json.loads(paths.run_file.read_text())["nodes"])


def _with_node(state: Path, node: str) -> Layout:
    paths = layout(state)
    known = _known(paths)
    if node not in known:
        raise DemoError(f"the demo has no node {node}, its nodes are {', '.join(known)}")
    return paths


def _facts(paths: Layout, name: str) -> NodeFacts:
    init = processes.machine_init(paths.state, paths.machine(name))
    power = "off" if init is None else "partitioned" if _cable_pulled(paths, name).exists() else "on"
    socket = paths.node_socket(name)
    return NodeFacts(name, node_address(name), power, init, socket, node_uri(paths.state, name))


def _cable_pulled(paths: Layout, name: str) -> Path:
    return paths.machine(name) / "partitioned"


@contextmanager
def _locked(paths: Layout) -> Iterator[None]:
    """Hold the demo's lock; the kernel gives it back when its holder is killed."""
    with paths.lock.open("w") as file:
        deadline = time.monotonic() + _LOCK_SECONDS
        while not _try_lock(file.fileno()):
            if time.monotonic() > deadline:
                raise DemoError(
                    f"another command works on the demo in {paths.state} since over {_LOCK_SECONDS:g} s"
                )
            time.sleep(0.1)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


__all__ = [
    "DemoError",
    "DemoInfo",
    "NodeFacts",
    "ask",
    "down",
    "heal",
    "kill_service",
    "node_uri",
    "partition",
    "power_cut",
    "power_on",
    "restart_front",
    "service_pid",
    "start_service",
    "status",
    "stop_service",
    "up",
]
