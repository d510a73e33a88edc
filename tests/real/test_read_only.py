"""Shown by 9: of all methods that libvirt-python has, a read-only connection is refused what a node refuses it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import libvirt
import pytest

from tests.support.sameness import UUID
from tests.support.stock import eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

NAME = "looked-at"
NUMBERS = {"vcpu", "nvcpus", "memory", "autostart", "flags", "type", "bandwidth", "interval", "count", "size"}
LEFT_OUT = {
    *("close", "connect", "domain", "setKeepAlive", "c_pointer", "ref", "isAlive"),
    # They read what differs between two domains, two hosts, or two moments.
    *("getAllDomainStats", "getInfo", "getCapabilities", "getCPUStats", "memoryStats", "getURI"),
    # The client alone answers, and in time: not about the server.
    *("migrate", "migrate2", "migrate3"),
}


def argument(name: str, connection: libvirt.virConnect) -> object:
    """Something of the type that a parameter of this name takes."""
    special: dict[str, Callable[[], object]] = {
        "params": lambda: {"x": 1},
        "cpumap": lambda: (True,),
        "dconn": lambda: connection,
        "stream": lambda: connection.newStream(),
        "st": lambda: connection.newStream(),
        "domain": lambda: connection.lookupByName(NAME),
        "keycodes": lambda: [1],
        "nkeycodes": lambda: 1,
        "uuid": lambda: bytes(16),
        "xmlCPUs": list,
        "mountPoints": list,
        "mountpoints": list,
    }
    if name in special:
        return special[name]()
    text = any(part in name.lower() for part in ("xml", "name", "uri", "path", "disk", "to", "cmd", "user"))
    return "x" if text and name not in NUMBERS else 0


def call(target: Any, method: str, connection: libvirt.virConnect) -> object:
    """What the method gives: the error, or only that there was none."""
    function = getattr(target, method)
    wanted = [
        name
        for name, one in inspect.signature(function).parameters.items()
        if one.default is inspect.Parameter.empty
    ]
    for swap in (False, True):
        words = [argument(name, connection) for name in wanted]
        words = [("x" if word == 0 else 0 if word == "x" else word) if swap else word for word in words]
        try:
            function(*words)
        except libvirt.libvirtError as error:
            return tuple(
                UUID.sub("UUID", part) if isinstance(part, str) else part for part in error.err or ()
            )
        except (TypeError, AttributeError, LookupError, OverflowError, SystemError):
            continue
        return "no error"
    return "not called"


def methods(kind: type) -> list[str]:
    """All that may be asked of it, but for what hears or leaves."""
    return [
        name
        for name in sorted(vars(kind))
        if not name.startswith("_")
        and name not in LEFT_OUT
        and not any(word in name for word in ("Callback", "Event"))
    ]


def told(uri: str) -> dict[str, object]:
    connection = libvirt.openReadOnly(uri)
    domain = connection.lookupByName(NAME)
    try:
        return {
            f"{kind.__name__}.{name}": call(target, name, connection)
            for kind, target in ((libvirt.virConnect, connection), (libvirt.virDomain, domain))
            for name in methods(kind)
        }
    finally:
        connection.close()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("running", [False, True], ids=["defined", "running"])
def test_every_method_is_denied_where_a_node_denies_it(
    cluster: RealCluster, tmp_path: Path, running: bool
) -> None:
    libvirt.registerErrorHandler(lambda *_: None, None)
    answers = []
    for virsh, uri in ((cluster.node("n1"), cluster.node_uri("n1")), (cluster.view("n1"), cluster.endpoint)):
        virsh.define(cluster.xml(NAME), tmp_path)
        try:
            if running:
                virsh("start", NAME)
            eventually(lambda: NAME in cluster.virsh.names("--all"), 5, "it is there")
            answers.append(told(uri))
            assert virsh("domstate", NAME) == ("running" if running else "shut off"), "nothing was changed"
        finally:
            cluster.remove(NAME)
        eventually(lambda: NAME not in cluster.virsh.names("--all"), 5, "it is gone")
    node, endpoint = answers
    denied = [
        name
        for name, one in node.items()
        if isinstance(one, tuple) and one[0] == libvirt.VIR_ERR_OPERATION_DENIED
    ]
    print(
        f"{len(node)} methods, {len(denied)} denied, {sum(one == 'not called' for one in node.values())} not called"
    )
    assert len(denied) > 90
    wrong = [
        f"{name}: {node[name]} at the node, {endpoint[name]}"
        for name in denied
        if node[name] != endpoint[name]
    ]
    assert not wrong, "\n".join(wrong)
    others = [
        f"{name}: {node[name]} / {endpoint[name]}"
        for name in node
        if node[name] != endpoint[name] and not expected(name, endpoint[name])
    ]
    assert not others, "\n".join(others)


def expected(name: str, answer: object) -> bool:
    """What docs/compat-libvirt.md and docs/differences.md tell of the host; of a domain there is nothing."""
    unsupported = isinstance(answer, tuple) and answer[0] == libvirt.VIR_ERR_NO_SUPPORT
    return name.startswith("virConnect.") and (unsupported or name == "virConnect.getSysinfo")
