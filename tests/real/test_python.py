"""Shown by 9: programs on libvirt-python get from the endpoint what a node's own socket gives to the same program."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import libvirt
import pytest

from clusterhost.demo import cluster as demo
from tests.support import eventful
from tests.support.sameness import UUID
from tests.support.stock import Virsh, eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

pytestmark = pytest.mark.timeout(120)
NAME = "snakes"
DISPLAY = """<graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1'/>
<video><model type='cirrus'/></video>"""
EVENTS = {
    *("AGENT_LIFECYCLE", "BALLOON_CHANGE", "BLOCK_JOB", "BLOCK_JOB_2", "BLOCK_THRESHOLD", "DEVICE_ADDED"),
    *("DEVICE_REMOVED", "GRAPHICS", "JOB_COMPLETED", "LIFECYCLE", "METADATA_CHANGE", "MIGRATION_ITERATION"),
    *("PMSUSPEND", "PMWAKEUP", "REBOOT", "RTC_CHANGE", "TRAY_CHANGE", "TUNABLE", "legacy"),
}
"""What the program can make happen; the rest needs broken hardware or guests with drivers that ours lacks."""
UNTIMED = {"AGENT_LIFECYCLE", "BALLOON_CHANGE", "CONTROL_ERROR", "REBOOT", "RTC_CHANGE"}
"""How often and when QEMU tells these depends on how fast the guest is, and dies."""
DYING = [libvirt.VIR_DOMAIN_EVENT_SHUTDOWN, libvirt.VIR_DOMAIN_EVENT_SHUTDOWN_HOST]
"""A QEMU that is killed does not always get to say that it shuts down."""
CLOSED_BY_EOF = {"closed": True, "reasons": [libvirt.VIR_CONNECT_CLOSE_REASON_EOF], "alive": 0}
CLOSED_BY_SILENCE = {"closed": True, "reasons": [libvirt.VIR_CONNECT_CLOSE_REASON_KEEPALIVE], "alive": 0}


def begin(module: str, *words: str) -> subprocess.Popen[str]:
    """A program that runs."""
    command = [sys.executable, "-m", f"tests.support.{module}", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def answers(process: subprocess.Popen[str], seconds: float = 100) -> list[Any]:
    """What it printed, when it has ended well."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"not within {seconds} s: {out}{err}")
    assert process.returncode == 0, out + err
    return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def domain(cluster: RealCluster, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """domain(virsh, start=True, ...) defines NAME there; `undefine()` and the end of the test take it away."""
    with ExitStack() as undo:

        def define(virsh: Virsh, *, start: bool = True, **options: object) -> str:
            undo.callback(remove, virsh)
            virsh.define(cluster.xml(NAME, **options), tmp_path)
            if start:
                virsh("start", NAME)
            return NAME

        yield define


def remove(virsh: Virsh) -> None:
    virsh.run("destroy", NAME)
    virsh.run("undefine", NAME, "--managed-save", "--snapshots-metadata", "--checkpoints-metadata")


@pytest.fixture
def both(cluster: RealCluster, domain: Callable[..., str]) -> Callable[..., list[list[Any]]]:
    """both("console", start=True) runs the program at node n1 and at the endpoint, with a domain of its own each."""

    def run(program: str, **options: object) -> list[list[Any]]:
        told = []
        for virsh in (cluster.node("n1"), cluster.virsh):
            eventually(lambda: NAME not in cluster.virsh.names("--all"), 5, "the other one is gone")
            name = domain(virsh, **options)
            told.append(answers(begin("programs", program, virsh.uri, name)))
            remove(virsh)
        return told

    return run


def test_a_console_in_an_event_loop_is_read_typed_into_refused_to_others_and_ended(
    both: Callable[..., list[list[Any]]],
) -> None:
    node, endpoint = both("console")
    assert node[:2] == [{"counts": True}, {"answers": True}]
    assert {"ends": True, "how": "end"} in node
    assert endpoint == node


def test_a_console_without_an_event_loop_takes_what_is_sent_and_can_be_opened_again(
    both: Callable[..., list[list[Any]]],
) -> None:
    node, endpoint = both("console-blocking")
    assert node == [{"answers": True}, {"reopened": True}]
    assert endpoint == node


def test_a_picture_is_the_same_in_one_go_by_events_and_with_holes(
    both: Callable[..., list[list[Any]]],
) -> None:
    node, endpoint = both("screenshot", devices=DISPLAY)
    for told in (node, endpoint):
        assert told[1] == {"ends": True, "how": "end", "same": True}
        assert told[2] == {"sparse": told[0]["size"]}
    assert [row for row in endpoint if "size" not in row][:1] == node[1:2]
    assert endpoint[0]["kind"] == node[0]["kind"]
    assert endpoint[0]["head"] == node[0]["head"]


def test_a_program_in_asyncio_hears_events_and_uses_a_console(both: Callable[..., list[list[Any]]]) -> None:
    node, endpoint = both("asyncio", start=False)
    assert [4, 0] in node[0]["told"]
    assert [5, 1] in node[0]["told"]
    assert endpoint == node


@pytest.mark.timeout(200)
def test_every_event_that_can_be_made_is_heard_as_on_a_node(
    cluster: RealCluster, domain: Callable[..., str]
) -> None:
    told = []
    for virsh in (cluster.node("n1"), cluster.virsh):
        directory = cluster.state / "shared" / "events"
        directory.mkdir()
        try:
            image = str(directory / "a.qcow2")
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "16M"], check=True)
            (directory / "b.raw").write_bytes(bytes(1 << 20))
            (directory / "cd.iso").write_bytes(bytes(1 << 20))
            domain(virsh, start=False, disk=directory / "a.qcow2", devices=eventful.DEVICES)
            told.append(answers(begin("eventful", virsh.uri, NAME, str(directory))))
        finally:
            subprocess.run(["rm", "-r", str(directory)], check=True)
        eventually(lambda: NAME not in cluster.virsh.names("--all"), 5, "undefined by the program")
    node, endpoint = told
    assert {row[0] for row in node} - {"CONTROL_ERROR"} == EVENTS
    assert {row[0] for row in endpoint} - {"CONTROL_ERROR"} == EVENTS
    # Two runs of two guests: order is compared where it does not depend on how fast a guest or a job is.  That one run
    # is told in a node's own order is shown in test_console_and_events.py.
    assert set(in_order(endpoint)) == set(in_order(node))
    assert in_order(endpoint, "LIFECYCLE") == in_order(node, "LIFECYCLE")


def in_order(rows: list[list[Any]], *kinds: str) -> list[str]:
    """What both must tell, without figures of speed, which a job has more or fewer of, and without the old form of the
    last event, which comes when the program may have ended already."""
    kept = [row for row in rows if row[0] not in UNTIMED and row[3:] != DYING]
    kept = [row for row in kept if not kinds or row[0] in kinds]
    kept = [row[:3] if row[0] in ("JOB_COMPLETED", "MIGRATION_ITERATION") else row for row in kept]
    kept = [row for row in kept if (row[0], row[3:]) != ("legacy", [1, 0])]
    return [UUID.sub("UUID", json.dumps(row)) for row in kept]


def test_many_threads_on_one_connection_get_their_own_answers(
    cluster: RealCluster, make: Callable[..., str]
) -> None:
    for number in range(3):
        make(f"thread{number}", start=True)
    assert answers(begin("programs", "threads", cluster.endpoint, "8", "200")) == [
        {"right": 1600, "wrong": []}
    ]


def closings(cluster: RealCluster, keepalive: str, act: Callable[[int], None]) -> list[list[Any]]:
    """What a program at n3's libvirtd and one at the front end are told when the act is done to it."""
    parts = (
        (cluster.node_uri("n3"), "n3", "libvirtd"),
        (cluster.endpoint, "front", "front-end"),
    )
    programs = [begin("programs", "closing", uri, keepalive) for uri, _, _ in parts]
    for program, (_, machine, service) in zip(programs, parts, strict=True):
        assert program.stdout is not None
        assert json.loads(program.stdout.readline()) == {"alive": 1}
        pid = demo.service_pid(cluster.state, machine, service)
        assert pid is not None
        act(pid)
    with ThreadPoolExecutor() as pool:
        return list(pool.map(answers, programs))


def without_time(told: list[Any]) -> list[Any]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in told]


def in_reach(cluster: RealCluster) -> None:
    def whole() -> bool:
        try:
            return all(row["link"] == "up" for row in demo.ask(cluster.state, "node.list"))
        except OSError:
            return False

    eventually(whole, 30, "all nodes are in reach")
    eventually(lambda: cluster.node("n3").run("uri").code == 0, 10, "n3's libvirtd answers")
    # A front end that was stopped learns only now that its nodes gave it up meanwhile.
    eventually(lambda: streams_opened(cluster), 40, "every node takes a stream")


def streams_opened(cluster: RealCluster) -> bool:
    try:
        streams_open(cluster)
    except libvirt.libvirtError:
        return False
    return True


def streams_open(cluster: RealCluster) -> None:
    """Every node takes a stream again, for which it has a connection of its own."""
    connection = libvirt.open(cluster.endpoint)
    for node in cluster.nodes:
        view = libvirt.open(cluster.view_uri(node))
        domain = view.createXML(cluster.xml(f"stream-{node}"), libvirt.VIR_DOMAIN_START_AUTODESTROY)
        stream = connection.newStream()
        connection.lookupByName(domain.name()).openConsole(None, stream)
        assert stream.recv(1) != b""
        stream.abort()
        domain.destroy()
        view.close()
    connection.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped in order"])
def test_a_program_is_told_that_its_connection_ended(cluster: RealCluster, number: signal.Signals) -> None:
    try:
        node, endpoint = closings(cluster, "-", lambda pid: os.kill(pid, number))
    finally:
        in_reach(cluster)
    assert without_time(node)[0] == CLOSED_BY_EOF
    assert without_time(endpoint) == without_time(node)


def test_a_program_with_keepalive_gives_a_silent_server_up(cluster: RealCluster) -> None:
    stopped: list[int] = []

    def stop(pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        stopped.append(pid)

    try:
        node, endpoint = closings(cluster, "5,3", stop)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        in_reach(cluster)
    assert without_time(node)[0] == CLOSED_BY_SILENCE
    assert without_time(endpoint) == without_time(node)
    assert abs(node[0]["seconds"] - endpoint[0]["seconds"]) < 3
