"""A whole cluster whose store is PostgreSQL: main job, what dies and comes back; R12: reads go on, writes refuse."""

from __future__ import annotations

import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
import pytest

from clusterhost.demo import cluster as demo
from tests.real.conftest import RealCluster
from tests.support import postgres
from tests.support.stock import Outcome, eventually

pytestmark = pytest.mark.timeout(120)

REFUSED = 5.0
"""Seconds within which a write must say that the store is gone (R12)."""


@dataclass(frozen=True)
class Stored:
    """Two nodes, and the server that their front end writes to."""

    cluster: RealCluster
    server: postgres.PrivatePostgres
    database: str

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self.server.execute(query, self.database)

    def define(self, name: str, where: Path) -> None:
        self.cluster.virsh.define(self.cluster.xml(name, memory_mib=48), where)


@pytest.fixture(scope="module")
def stored() -> Iterator[Stored]:
    if reason := postgres.missing():
        pytest.skip(reason)
    server = postgres.PrivatePostgres()
    state = Path(tempfile.mkdtemp(prefix="ch-"))
    try:
        server.start()
        url = server.new_database()
        info = demo.up(state, 2, lambda line: None, store=url)
        assert info.endpoint is not None
        yield Stored(RealCluster(state, info.endpoint, ("n1", "n2")), server, "d1")
    finally:
        demo.down(state, lambda line: None)
        shutil.rmtree(state, ignore_errors=True)
        server.remove()


@pytest.fixture
def names(stored: Stored, tmp_path: Path) -> Iterator[list[str]]:
    """Two domains that run, and one that does not; all that is there is gone after the test."""
    made = ["pg1", "pg2", "pg3"]
    for name in made:
        stored.define(name, tmp_path)
    for name in made[:2]:
        stored.cluster.virsh("start", name)
    yield made
    for name in stored.cluster.virsh.names("--all"):
        stored.cluster.remove(name)


def timed_define(stored: Stored, name: str, where: Path) -> tuple[Outcome, float]:
    path = where / f"{name}.xml"
    path.write_text(stored.cluster.xml(name, memory_mib=48))
    began = time.monotonic()
    outcome = stored.cluster.virsh.run("define", str(path))
    return outcome, time.monotonic() - began


def reads_go_on(stored: Stored, names: list[str]) -> None:
    """All that needs no record: lists, lookups, what is relayed."""
    virsh = stored.cluster.virsh
    assert virsh.names("--all") == set(names)
    assert virsh.names() == set(names[:2])
    assert virsh("domstate", names[0]) == "running"
    assert f"<name>{names[2]}</name>" in virsh("dumpxml", names[2])
    virsh("dommemstat", names[0])
    virsh("nodeinfo")


def writes_are_refused(stored: Stored, where: Path) -> None:
    outcome, seconds = timed_define(stored, "late", where)
    assert outcome.code != 0, "it cannot have been recorded"
    assert "the database" in outcome.err, outcome.err
    assert seconds < REFUSED + 0.5, "virsh itself takes some of it"
    assert all("late" not in stored.cluster.node(node).names("--all") for node in stored.cluster.nodes)


def writes_again(stored: Stored, where: Path) -> None:
    """By itself, without a restart of anything."""
    eventually(lambda: timed_define(stored, "late", where)[0].code == 0, 15, "a definition is recorded again")
    assert stored.rows("SELECT count(*) FROM domains WHERE name = 'late'") == [(1,)]
    stored.cluster.remove("late")


def test_the_main_job_is_done_and_recorded(stored: Stored, names: list[str]) -> None:
    virsh = stored.cluster.virsh
    assert {stored.cluster.owner(name) for name in names[:2]} == {"n1", "n2"}
    source = stored.cluster.owner(names[0])
    target = "n1" if source == "n2" else "n2"
    number = virsh("domid", names[0])
    words = ("--live", names[0], stored.cluster.view_uri(target), "--persistent", "--undefinesource")
    stored.cluster.view(source)("migrate", *words)
    assert stored.cluster.running_on(names[0]) == [target]
    assert virsh("domid", names[0]) == number
    virsh("autostart", names[2])
    virsh("start", names[2])
    virsh("destroy", names[2])
    recorded = stored.rows("SELECT name, node, autostart FROM domains ORDER BY name")
    assert (names[0], target, False) in recorded
    assert recorded[2][0::2] == (names[2], True)
    assert demo.ask(stored.cluster.state, "status")["open_intents"] == 0


def test_a_killed_front_end_comes_back_with_all_that_was_acknowledged(
    stored: Stored, names: list[str]
) -> None:
    virsh = stored.cluster.virsh
    ids = {name: virsh("domid", name) for name in names[:2]}
    epoch = demo.ask(stored.cluster.state, "status")["epoch"]
    demo.restart_front(stored.cluster.state)
    assert demo.ask(stored.cluster.state, "status")["epoch"] > epoch
    assert virsh.names("--all") == set(names)
    assert {name: virsh("domid", name) for name in names[:2]} == ids
    eventually(lambda: virsh.run("dommemstat", names[0]).code == 0, 10, "its node is in reach again")


@pytest.mark.parametrize("how", [signal.SIGQUIT, signal.SIGINT], ids=["at once", "in order"])
def test_without_its_database_reads_go_on_and_writes_say_why(
    stored: Stored, names: list[str], tmp_path: Path, how: signal.Signals
) -> None:
    stored.server.stop(how)
    try:
        writes_are_refused(stored, tmp_path)
        reads_go_on(stored, names)
        error = refusal(stored)
        assert error.get_error_code() == libvirt.VIR_ERR_OPERATION_FAILED
        assert error.get_error_domain() == libvirt.VIR_FROM_QEMU
        assert names[2] not in stored.cluster.virsh.names()
    finally:
        stored.server.start()
    writes_again(stored, tmp_path)


def refusal(stored: Stored) -> libvirt.libvirtError:
    """The whole error of a start that cannot be recorded."""
    libvirt.registerErrorHandler(lambda *_: None, None)
    connection = libvirt.open(stored.cluster.endpoint)
    try:
        connection.lookupByName("pg3").create()
    except libvirt.libvirtError as error:
        return error
    finally:
        connection.close()
    raise AssertionError("it started, though nobody could record it")


def test_a_database_that_hangs_holds_only_writes_and_not_for_long(
    stored: Stored, names: list[str], tmp_path: Path
) -> None:
    stored.server.signal_all(signal.SIGSTOP)
    try:
        writes_are_refused(stored, tmp_path)
        reads_go_on(stored, names)
    finally:
        stored.server.signal_all(signal.SIGCONT)
    writes_again(stored, tmp_path)


def test_a_front_end_killed_while_the_database_is_gone_serves_when_it_is_back(
    stored: Stored, names: list[str], tmp_path: Path
) -> None:
    stored.server.stop()
    demo.kill_service(stored.cluster.state, "front", "front-end")
    time.sleep(2)  # it is started again, and cannot serve
    assert stored.cluster.virsh.run("list").code != 0
    stored.server.start()
    eventually(lambda: stored.cluster.virsh.run("list").code == 0, 30, "the front end serves")
    eventually(
        lambda: all(row["link"] == "up" for row in demo.ask(stored.cluster.state, "node.list")), 20, "nodes"
    )
    reads_go_on(stored, names)
    writes_again(stored, tmp_path)


def test_clients_that_work_while_it_restarts_lose_nothing_that_was_acknowledged(
    stored: Stored, names: list[str]
) -> None:
    done, refused, stop = [], [], threading.Event()

    def read() -> None:
        connection = libvirt.openReadOnly(stored.cluster.endpoint)
        while not stop.is_set():
            assert connection.lookupByName(names[0]).state()[0] == libvirt.VIR_DOMAIN_RUNNING
            done.append("read")
        connection.close()

    def write(number: int) -> None:
        connection = libvirt.open(stored.cluster.endpoint)
        while not stop.is_set():
            title = f"{number}-{len(done)}"
            try:
                connection.defineXML(stored.cluster.xml(f"busy{title}", memory_mib=48))
                done.append(f"busy{title}")
            except libvirt.libvirtError as error:
                refused.append(str(error))
            time.sleep(0.05)
        connection.close()

    libvirt.registerErrorHandler(lambda *_: None, None)
    clients = [threading.Thread(target=read), *(threading.Thread(target=write, args=(n,)) for n in range(2))]
    for client in clients:
        client.start()
    try:
        time.sleep(1)
        stored.server.stop(signal.SIGINT)
        time.sleep(1)
        stored.server.start()
        before = len(done)
        eventually(lambda: any(word.startswith("busy") for word in done[before:]), 20, "writes go on")
    finally:
        stop.set()
        for client in clients:
            client.join(30)
    acknowledged = {word for word in done if word != "read"}
    assert acknowledged <= stored.cluster.virsh.names("--all")
    assert acknowledged <= {row[0] for row in stored.rows("SELECT name FROM domains")}
    assert all("the database" in text for text in refused), refused[:3]
    assert done.count("read") > len(acknowledged)
