"""Shown by 8, fault rows F1 to F5: the front end dies of SIGKILL at every named point; nothing acknowledged is
lost, nothing is half applied, nothing runs twice."""

from __future__ import annotations

import contextlib
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

from clusterhost.demo import cluster as demo
from clusterhost.store.crash import CRASH_POINTS, VARIABLE
from tests.support.stock import Outcome, eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

T = TypeVar("T")

SERVING = 3.0
"""Seconds until a front end that was started answers; the machine is shared, so the test allows twice that."""
RESOLVED = 10.0
"""Seconds until nothing is open any more."""
UPGRADE = {"store.migrate.halfway", "store.migrate.step", "store.migrate.before_commit"}
"""Points of a schema upgrade: tests/service/test_store.py."""
IMAGES = {"images.before_copy", "images.after_copy", "images.after_note", "images.after_raise"}
"""Points of a start whose images come first: test_images_crashes.py."""
VOLUMES = {"volume.after_intent", "volume.after_act"}
"""Points of a volume's creation: test_volume_crashes.py."""
BROKEN_OFF = {
    *("upload.after_intent", "upload.after_act", "upload.after_commit"),
    *("delete.after_copy", "delete.after_act"),
    *("spread.before_copy", "spread.after_copy", "spread.after_note"),
    *("evict.after_intent", "evict.after_act"),
}
"""Points of what is done to volumes and images that are there: test_images_broken_off.py."""
ELSEWHERE = UPGRADE | IMAGES | VOLUMES | BROKEN_OFF

DEFINE = {
    "define.before_intent": False,
    "define.after_intent": False,
    "define.after_act": True,
    "define.after_commit": True,
    "store.before_commit": False,
    "store.after_commit": False,
}
"""Point -> the domain is there afterwards.  The store's points are met at the intent."""
START = {
    "start.before_intent": False,
    "start.after_intent": True,
    "start.after_act": True,
    "start.after_commit": True,
}
"""Point -> it runs afterwards: a start that is on record is made once (F3)."""
CREATE = {"start.after_intent": False, "start.after_act": True}
"""A transient domain that no node has begun is nobody's promise."""
UNDEFINE = {
    "undefine.before_intent": True,
    "undefine.after_intent": True,
    "undefine.after_act": False,
    "undefine.after_commit": False,
}
"""Point -> the domain is still there."""
NETWORK = {"network.before_commit": False, "network.after_commit": True, "network.after_act": True}
"""Point -> a network is started, or stopped, afterwards."""
NETWORK_XML = """<network><name>crash</name><forward mode='nat'/><ip address='10.94.0.1' prefix='24'><dhcp>
<range start='10.94.0.10' end='10.94.0.20'/></dhcp></ip></network>"""
MIGRATE = ("migrate.prepare", "migrate.perform", "migrate.finish", "migrate.confirm")
TOLD_TO_RUN = ("migrate.finish", "migrate.confirm")
"""Before that the target's copy is worth nothing and the source goes on (reliability.md 4.6)."""
MOVERS = ("virsh", "job")


@dataclass(frozen=True)
class Doomed:
    """A cluster whose front end dies where it is told to, and stays dead until it is revived."""

    cluster: RealCluster
    order: Path
    where: Path

    def dies_at(self, point: str, command: Callable[[], T]) -> T:
        """Run the command, see the front end die there, start it again, wait until all is resolved."""
        self.order.write_text(point)
        try:
            outcome = command()
            eventually(lambda: self.pid() is None, 30, f"the front end reaches {point}")
        finally:
            self.order.unlink()
        assert self.revive() < 2 * SERVING
        eventually(self.resolved, RESOLVED, f"nothing is open after {point}: {self.status()}")
        self.check()
        return outcome

    def revive(self) -> float:
        """Start the front end; seconds until it answered."""
        return demo.restart_front(self.cluster.state, {VARIABLE: f"@{self.order}"}, again=False)

    def pid(self) -> int | None:
        return demo.service_pid(self.cluster.state, "front", "front-end")

    def status(self) -> object:
        return demo.ask(self.cluster.state, "status")

    def resolved(self) -> bool:
        nodes = demo.ask(self.cluster.state, "node.list")
        up = all(node["link"] == "up" for node in nodes)
        return up and demo.ask(self.cluster.state, "status")["open_intents"] == 0

    def check(self) -> None:
        """What every moment must show: one owner for each domain, and the endpoint says what the nodes say."""
        all_there, running = Counter[str](), Counter[str]()
        for node in self.cluster.nodes:
            all_there.update(self.cluster.node(node).names("--all"))
            running.update(self.cluster.node(node).names())
        assert set(all_there.values()) <= {1}, f"defined twice: {all_there}"
        assert self.cluster.virsh.names("--all") == set(all_there)
        assert self.cluster.virsh.names() == set(running)
        assert guests(self.cluster.state) == running, "a QEMU that no libvirtd lists, or two of one domain"
        jobs = [job for job in demo.ask(self.cluster.state, "job.list") if job["state"] == "running"]
        assert not jobs, f"orphans: {jobs}"

    def file(self, name: str) -> str:
        """A file with the definition of a domain; the same uuid each time."""
        path = self.where / f"{name}.xml"
        path.write_text(self.cluster.xml(name, uuid=str(uuid.uuid5(uuid.NAMESPACE_DNS, name))))
        return str(path)

    def starts(self, name: str) -> int:
        """How often any node has begun to run the domain, from libvirt's own logs."""
        logs = [self.cluster.state / "nodes" / node / "log/libvirt/qemu" for node in self.cluster.nodes]
        texts = [(log / f"{name}.log").read_text() for log in logs if (log / f"{name}.log").exists()]
        return sum(text.count("starting up libvirt version") for text in texts)


def guests(state: Path) -> Counter[str]:
    """The names of all QEMU processes of the demo, from the process table."""
    found = Counter[str]()
    prefix = f"{state}/nodes/".encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            ours = prefix in path.with_name("environ").read_bytes() or f"{state}/".encode() in b" ".join(
                words
            )
            names = [word for word in words if word.startswith(b"guest=")]
            if ours and names and b"-S" in words:
                found[names[0].split(b",")[0].removeprefix(b"guest=").decode()] += 1
    return found


@pytest.fixture(autouse=True)
def whole() -> None:
    """The bystanders stay from test to test: `doomed` looks for leftovers at the end."""


@pytest.fixture(scope="module")
def doomed(cluster: RealCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doomed]:
    """With two bystanders: one that runs, one that is only defined."""
    made = Doomed(cluster, cluster.state / "front" / "crash-point", tmp_path_factory.mktemp("crash"))
    made.revive()
    eventually(made.resolved, RESOLVED, "all nodes are in reach")
    try:
        for name in ("busy", "idle"):
            cluster.virsh("define", made.file(name))
        cluster.virsh("start", "busy")
        yield made
        cluster.remove("busy")
        cluster.remove("idle")
        made.check()
        assert not cluster.virsh.names("--all")
    finally:
        made.order.unlink(missing_ok=True)
        demo.restart_front(cluster.state)
        eventually(made.resolved, RESOLVED, "all nodes are in reach")


@pytest.fixture(autouse=True)
def bystanders(doomed: Doomed) -> Iterator[None]:
    """What had nothing to do with a crash has the same id, node and state after it."""
    before = seen(doomed.cluster)
    yield
    assert seen(doomed.cluster) == before


def seen(cluster: RealCluster) -> tuple[str, ...]:
    virsh = cluster.virsh
    return (
        virsh("domid", "busy"),
        virsh("domstate", "busy"),
        virsh("domstate", "idle"),
        cluster.owner("idle"),
    )


def test_every_crash_point_is_met_in_this_file_or_in_the_stores_own_tests() -> None:
    met = {*DEFINE, *START, *UNDEFINE, *NETWORK, *MIGRATE}
    assert met | ELSEWHERE == CRASH_POINTS


@pytest.mark.parametrize("point", DEFINE)
def test_a_define_that_dies_is_there_or_not_and_can_be_repeated(doomed: Doomed, point: str) -> None:
    name, virsh = point.replace(".", "-"), doomed.cluster.virsh
    outcome = doomed.dies_at(point, lambda: virsh.run("define", doomed.file(name)))
    assert outcome.code != 0, "nobody can have told the client"
    assert (name in virsh.names("--all")) == DEFINE[point]
    virsh("define", doomed.file(name))
    assert virsh("domstate", name) == "shut off"
    doomed.check()
    virsh("undefine", name)
    doomed.check()


@pytest.mark.parametrize("point", START)
def test_a_start_that_dies_is_made_once_and_can_be_repeated(doomed: Doomed, point: str) -> None:
    name, virsh = point.replace(".", "-"), doomed.cluster.virsh
    virsh("define", doomed.file(name))
    doomed.dies_at(point, lambda: virsh.run("start", name, "--paused"))
    assert virsh("domstate", name) == ("paused" if START[point] else "shut off")
    assert doomed.starts(name) == int(START[point])
    again = virsh.run("start", name, "--paused")
    assert again.code == 0 or (START[point] and "already active" in again.err), again.err
    assert len(doomed.cluster.running_on(name)) == 1
    assert doomed.starts(name) == 1
    doomed.cluster.remove(name)
    doomed.check()


@pytest.mark.parametrize("point", CREATE)
def test_a_create_that_dies_runs_once_or_not_and_can_be_repeated(doomed: Doomed, point: str) -> None:
    name, virsh = point.replace("start.", "create-"), doomed.cluster.virsh
    doomed.dies_at(point, lambda: virsh.run("create", doomed.file(name), "--paused"))
    assert (name in virsh.names()) == CREATE[point]
    again = virsh.run("create", doomed.file(name), "--paused")
    assert again.code == 0 or (CREATE[point] and "already" in again.err), again.err
    assert doomed.starts(name) == 1
    virsh("destroy", name)
    doomed.check()


@pytest.mark.parametrize("point", UNDEFINE)
def test_an_undefine_that_dies_is_done_or_not_and_can_be_repeated(doomed: Doomed, point: str) -> None:
    name, virsh = point.replace(".", "-"), doomed.cluster.virsh
    virsh("define", doomed.file(name))
    doomed.dies_at(point, lambda: virsh.run("undefine", name))
    assert (name in virsh.names("--all")) == UNDEFINE[point]
    again = virsh.run("undefine", name)
    assert (again.code == 0) == UNDEFINE[point], again.err
    assert UNDEFINE[point] or "failed to get domain" in again.err
    assert name not in virsh.names("--all")
    doomed.check()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("mover", MOVERS)
@pytest.mark.parametrize("point", MIGRATE)
def test_a_migration_that_dies_leaves_one_copy_that_runs(doomed: Doomed, point: str, mover: str) -> None:
    cluster = doomed.cluster
    source, target = ends(cluster)
    doomed.dies_at(point, lambda: move(cluster, mover, source, target))
    [now] = cluster.running_on("busy")
    assert now == (target if point in TOLD_TO_RUN else source), "who was told to run it keeps it"
    assert cluster.virsh("domstate", "busy") == "running"
    move(cluster, "virsh", *ends(cluster)).succeeded()
    doomed.check()


@pytest.mark.timeout(120)
def test_a_peer_to_peer_migration_that_dies_leaves_one_copy_that_runs(doomed: Doomed) -> None:
    cluster = doomed.cluster
    source, target = ends(cluster)
    words = ("migrate", "--live", "--p2p", "busy", cluster.view_uri(target))
    doomed.dies_at("migrate.perform", lambda: cluster.view(source).run(*words, seconds=60))
    assert len(cluster.running_on("busy")) == 1


@pytest.mark.timeout(120)
@pytest.mark.parametrize("point", NETWORK)
def test_nodes_follow_a_network_whose_start_or_end_died(doomed: Doomed, tmp_path: Path, point: str) -> None:
    cluster, done = doomed.cluster, NETWORK[point]
    virsh, path = cluster.virsh, tmp_path / "crash.xml"

    def everywhere(there: bool) -> bool:
        listed = ["crash" in cluster.node(node)("net-list", "--name").split() for node in cluster.nodes]
        return listed == [there] * len(cluster.nodes)

    path.write_text(NETWORK_XML)
    virsh("net-define", str(path))
    try:
        doomed.dies_at(point, lambda: virsh.run("net-start", "crash"))
        assert ("crash" in virsh("net-list", "--name").split()) == done
        eventually(lambda: everywhere(done), 15, "nodes have it, or not")
        if not done:
            virsh("net-start", "crash")
        doomed.dies_at(point, lambda: virsh.run("net-destroy", "crash"))
        assert ("crash" in virsh("net-list", "--name").split()) == (not done)
        eventually(lambda: everywhere(not done), 15, "nodes have it no longer, or still")
    finally:
        virsh.run("net-destroy", "crash")
        virsh("net-undefine", "crash")


def ends(cluster: RealCluster) -> tuple[str, str]:
    """Where it is, and another node."""
    source = cluster.owner("busy")
    return source, next(node for node in cluster.nodes if node != source)


@dataclass(frozen=True)
class Moved:
    """What became of a command that moves."""

    error: str

    def succeeded(self) -> None:
        assert not self.error


def move(cluster: RealCluster, mover: str, source: str, target: str) -> Moved:
    """By a client of libvirt, or by an operator's job."""
    if mover == "virsh":
        words = ("--live", "busy", cluster.view_uri(target), "--persistent", "--undefinesource")
        outcome: Outcome = cluster.view(source).run("migrate", *words, seconds=60)
        return Moved(outcome.err if outcome.code else "")
    try:
        demo.ask(cluster.state, "domain.move", domain="busy", to=target, live=True)
    except (OSError, demo.DemoError) as error:
        return Moved(str(error))
    return Moved("")
