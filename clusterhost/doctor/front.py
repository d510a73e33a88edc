"""Checks of the front end: configuration, state, store, sockets, agents.  Opens no store that is in use."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from clusterhost import config
from clusterhost.agent.errors import LibvirtRefused, Unavailable
from clusterhost.agent.transport import connect, target
from clusterhost.config import ConfigError, Settings
from clusterhost.control import keys
from clusterhost.doctor.finding import Finding, bad, good, warning
from clusterhost.model.errors import ClusterError
from clusterhost.store.store import Store

Ask = Callable[[str], Any]
"""Calls a method of the front end by its name; FrontEndSilent."""


class FrontEndSilent(Exception):
    """No front end answers on the admin socket."""


async def check_front(path: Path, ask: Callable[[Settings], Ask]) -> list[Finding]:
    """All checks for the front end that `path` configures; `ask` makes the caller of its admin socket."""
    try:
        settings = config.load(path)
    except ConfigError as error:
        return [bad("configuration", str(error), f"mend {path}; clusterhost serve --check-config tells more")]
    findings = [good("configuration", f"{path} is good"), *_state(settings), _files(settings)]
    asked = ask(settings)
    try:
        status = asked("status")
    except FrontEndSilent as error:
        mend = "systemctl start clusterhost.service, or clusterhost serve; its log says why it ended"
        findings.append(bad("front end", str(error), mend))
        return [*findings, await _store(settings), *_free_ports(settings)]
    findings.append(
        good("front end", f"epoch {status['epoch']}, {status['nodes']} nodes, {status['domains']} domains")
    )
    findings += [finding async for finding in _sockets(settings)]
    return [*findings, *_agents(asked("node.list")), *_told(status)]


def _state(settings: Settings) -> Iterator[Finding]:
    directory = settings.cluster.state_dir
    if not directory.is_dir():
        yield bad("state", f"{directory} is not there", "clusterhost init")
        return
    yield good("state", str(directory))
    try:
        keys.load(settings.control.key_file)
    except keys.KeyFileError as error:
        yield bad("control key", str(error), "clusterhost init, or restore it: agents know the old one")
        return
    mode = settings.control.key_file.stat().st_mode & 0o777
    if mode & 0o077:
        mend = f"chmod 600 {settings.control.key_file}"
        yield bad("control key", f"{settings.control.key_file} has mode {mode:o}, others may read it", mend)
    else:
        yield good("control key", str(settings.control.key_file))


def _files(settings: Settings) -> Finding:
    needed = settings.listen.max_clients + 200
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if limit != resource.RLIM_INFINITY and limit < needed:
        mend = f"raise LimitNOFILE to {needed}, or lower max_clients"
        return warning("open files", f"{limit} allowed, {settings.listen.max_clients} clients may come", mend)
    return good("open files", f"{limit} allowed")


async def _store(settings: Settings) -> Finding:
    """Only asked for when no front end runs: opening a store takes it over."""
    url = settings.store.url.split("@")[-1]
    try:
        store = await Store.open(settings.store.url, now=time.time())
        saved = await store.load()
        await store.close()
    except (ClusterError, OSError) as error:
        return bad("store", f"{url}: {error}", "see docs/store.md; a front end that hangs may still hold it")
    return good("store", f"{url}: {len(saved.nodes)} nodes, {len(saved.domains)} domains")


def _free_ports(settings: Settings) -> Iterator[Finding]:
    for name in (settings.control.control, settings.control.bulk):
        if not name.startswith("tcp://"):
            continue
        host, _, port = name.removeprefix("tcp://").rpartition(":")
        try:
            with socket.create_server((host.strip("[]"), int(port))):
                yield good("ports", f"{name} is free")
        except OSError as error:
            yield bad(
                "ports", f"{name}: {error.strerror}", "end what listens there, or choose another address"
            )


async def _sockets(settings: Settings) -> AsyncIterator[Finding]:
    directory = settings.listen.unix_sock_dir
    addresses = [
        f"qemu+unix:///system?socket={directory}/{name}" for name in ("libvirt-sock", "libvirt-sock-ro")
    ]
    if settings.listen.listen_tcp:
        addresses.append(f"qemu+tcp://{settings.listen.listen_addr}:{settings.listen.tcp_port}/system")
    for uri in addresses:
        yield await _answers(uri, settings, readonly=uri.endswith("-ro"))


async def _answers(uri: str, settings: Settings, *, readonly: bool) -> Finding:
    try:
        rpc = await connect(target(uri), readonly=readonly)
    except (LibvirtRefused, Unavailable) as error:
        return bad("clients", f"{uri}: {error}", "see the front end's log; is its socket unit enabled?")
    try:
        hostname = (await rpc.ask("remote:CONNECT_GET_HOSTNAME")).hostname
    except (LibvirtRefused, Unavailable) as error:
        return bad("clients", f"{uri}: {error}", "see the front end's log")
    finally:
        rpc.close()
    if hostname != settings.cluster.hostname:
        mend = "another libvirtd has the socket: systemctl disable --now libvirtd.socket, then restart us"
        return bad("clients", f"{uri} is answered by {hostname}, not by {settings.cluster.hostname}", mend)
    return good("clients", f"{uri} answers")


def _agents(nodes: list[dict[str, Any]]) -> Iterator[Finding]:
    if not nodes:
        yield warning("agents", "the cluster has no node", "clusterhost node add NAME")
    for node in nodes:
        if node["link"] == "up":
            yield good("agents", f"{node['name']} is connected")
        elif node["link"] == "libvirtd-down":
            mend = f"on {node['name']}: clusterhost doctor node"
            yield bad(
                "agents", f"{node['name']}: its libvirtd does not answer: {node.get('reason', '')}", mend
            )
        else:
            mend = f"on {node['name']}: systemctl status clusterhost-agent, clusterhost doctor node"
            yield bad(
                "agents", f"{node['name']} is {node['link']}: {node.get('reason') or 'no reason known'}", mend
            )


def _told(status: dict[str, Any]) -> Iterator[Finding]:
    for text in status.get("refused", []):
        mend = "an agent that shall join needs the token of clusterhost node add NAME"
        yield warning("keys", f"refused {text}", mend)
    for text in status.get("clashes", []):
        yield warning("names", text, "rename one of them: virsh domrename NAME@NODE NEW-NAME")
