"""Crashes of the front end, losses of nodes and lost replies, in any order: nothing promised is lost, nothing
runs twice."""

import asyncio
import contextlib
import json
import random
import shutil
import tempfile
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from clusterhost.model.errors import ClusterError, StoreUnavailable
from clusterhost.service.acting import CRASHES
from clusterhost.store.crash import CRASH_POINTS
from clusterhost.store.rows import Intent, PutIntent
from clusterhost.store.store import Store
from tests.support.clusters import Front, running
from tests.support.fakelibvirt import RUNNING

NAMES = ("web", "mail", "news")
UUIDS = {name: uuid.uuid5(uuid.NAMESPACE_DNS, name).bytes for name in NAMES}


async def broken_off(front, work, turns):
    """Begin, and kill the front end after so many turns of the loop."""
    task = asyncio.ensure_future(work)
    for _ in range(turns):
        await asyncio.sleep(0.0002)  # the store commits in a thread
        if task.done():
            break
    done = task.done() and not task.cancelled() and task.exception() is None
    await front.crash()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return done


@pytest.mark.parametrize("lost", ["DOMAIN_DEFINE_XML", "DOMAIN_CREATE", "DOMAIN_UNDEFINE"])
async def test_a_reply_that_is_lost_is_asked_for_when_the_node_is_back(tmp_path, lost):
    async with running(tmp_path, names=("n1",)) as front:
        one = UUIDS["web"]
        calls = {
            "DOMAIN_DEFINE_XML": front.define,
            "DOMAIN_CREATE": front.begin,
            "DOMAIN_UNDEFINE": front.undefine,
        }
        if lost != "DOMAIN_DEFINE_XML":
            await front.define("web", one)
        front.nodes.lose_reply.add(lost)
        with pytest.raises(ClusterError):
            await calls[lost](*(("web", one) if lost == "DOMAIN_DEFINE_XML" else ("web",)))
        assert len(front.world.ledger.intents) == 1
        front.mend("n1")
        await front.settled()
        assert not front.world.ledger.intents
        assert front.machines["n1"].executed.count(lost) == 1
        expected = {"DOMAIN_DEFINE_XML": 5, "DOMAIN_CREATE": RUNNING, "DOMAIN_UNDEFINE": None}[lost]
        found = front.world.cluster.get(one)
        assert (found.state if found else None) == expected


async def test_a_start_that_was_recorded_but_not_sent_is_made_once_after_a_crash(tmp_path):
    front = Front(tmp_path, names=("n1",))
    await front.start()
    await front.define("web", UUIDS["web"])
    for turns in range(0, 200, 2):
        done = await broken_off(front, front.begin("web"), turns)
        await front.start()
        await front.settled()
        machine = front.machines["n1"]
        running_now = machine.guests[UUIDS["web"]].state == RUNNING
        assert machine.executed.count("DOMAIN_CREATE") == int(running_now)
        assert front.world.cluster.by_name("web").active == running_now
        assert running_now or not done
        if done:
            break
        if running_now:
            await front.relay("web", "DESTROY")
            machine.executed.clear()
    else:
        pytest.fail("the start never got to its end")
    await front.stop()


@pytest.mark.parametrize("command", ["define", "undefine"])
async def test_an_acknowledged_change_is_on_record_at_every_moment_of_a_crash(tmp_path, command):
    one = UUIDS["web"]
    front = Front(tmp_path, names=("n1",))
    await front.start()
    for turns in range(0, 200, 2):
        known = front.world.cluster.get(one) is not None
        if known != (command == "undefine"):
            await (front.undefine("web") if known else front.define("web", one))
        work = front.define("web", one) if command == "define" else front.undefine("web")
        done = await broken_off(front, work, turns)
        on_record = one in {row.uuid for row in await saved_domains(front)}
        await front.start()
        await front.settled()
        held = bool(front.holders(one))
        assert (front.world.cluster.get(one) is not None) == held
        assert (one in front.world.ledger.domains) == held
        if done:
            assert on_record == held == (command == "define")
            break
    else:
        pytest.fail("it never got to its end")
    await front.stop()


async def saved_domains(front):
    """What the store holds, no node having been asked."""
    store = await Store.open(front.settings.store.url)
    saved = await store.load()
    await store.close()
    return saved.domains


async def test_while_the_store_takes_nothing_an_undefine_is_refused_before_it_is_done(tmp_path):
    async with running(tmp_path, names=("n1",)) as front:
        for name in ("web", "mail"):
            await front.define(name, UUIDS[name])
        database, aside = tmp_path / "clusterhost.db", tmp_path / "aside.db"
        database.rename(aside)
        for name in ("web", "mail"):
            with pytest.raises(StoreUnavailable):
                await front.undefine(name)
        # The first one found out.
        assert front.machines["n1"].executed.count("DOMAIN_UNDEFINE") == 1
        assert front.holders(UUIDS["mail"]) == ["n1"]
        aside.rename(database)
        await front.settled()
        await front.undefine("mail")
        assert not front.world.ledger.domains
    assert not await saved_domains(front)


async def test_a_leftover_that_could_not_be_removed_is_removed_when_its_node_is_back(tmp_path):
    async with running(tmp_path, names=("n1", "n2")) as front:
        await front.define("web", UUIDS["web"])
        home = front.world.cluster.by_name("web").node
        target = "n2" if home == "n1" else "n1"
        front.nodes.lose_reply.add("import")
        with pytest.raises(ClusterError):
            await front.world.node_admin.move_domain(UUIDS["web"], target, "test", lambda *_: None)
        assert front.holders(UUIDS["web"]) == ["n1", "n2"]
        assert front.world.cluster.by_name("web").node == home
        front.mend(target)
        await front.settled()
        assert front.holders(UUIDS["web"]) == [home]


async def test_an_intent_of_a_node_that_was_removed_is_forgotten(tmp_path):
    async with running(tmp_path) as front:
        order = Intent("op", "drop", b"u" * 16, "n9", data=json.dumps({"name": "x"}))
        await front.world.ledger.commit(PutIntent(order))
        await front.settled()
        assert not front.world.ledger.intents


def test_every_deed_passes_crash_points_that_are_registered():
    for use_case in CRASHES.values():
        for step in ("before_intent", "after_intent", "after_act", "after_commit"):
            assert f"{use_case}.{step}" in CRASH_POINTS


class Schedule(RuleBasedStateMachine):
    """Clients, operators, crashes and power cuts, in the order that hypothesis likes."""

    def __init__(self):
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="clusterhost-service-"))
        self.runner = asyncio.Runner()
        self.front = Front(self.directory)
        self.promised: dict[str, bool | None] = dict.fromkeys(NAMES, False)
        """defined (True), not defined (False), either (None: no answer came)."""

    def run(self, work):
        return self.runner.run(work)

    @initialize()
    def begin(self):
        self.run(self.front.start())
        for name in NAMES[:2]:
            self.client("define", name, "")
            self.client("start", name, "")

    def teardown(self):
        try:
            self.run(self.whole_again())
        finally:
            self.run(self.front.stop())
            self.runner.close()
            shutil.rmtree(self.directory, ignore_errors=True)

    async def whole_again(self):
        for name in self.front.machines:
            if not self.front.machines[name].reachable or name not in self.front.nodes.linked:
                self.front.mend(name)
        await self.front.settled()
        await self.front.settled()
        cluster, machines = self.front.world.cluster, self.front.machines
        assert not self.front.world.ledger.intents
        for name, one in UUIDS.items():
            holders = self.front.holders(one)
            found = cluster.get(one)
            persistent = [node for node in holders if machines[node].guests[one].persistent]
            if self.promised[name] is not None:
                assert len(persistent) == int(self.promised[name]), f"{name}: promised, found on {persistent}"
            assert len(holders) <= 1, f"{name} is on {holders}"
            assert (found is not None) == bool(holders)
            if found is not None:
                guest = machines[holders[0]].guests[one]
                assert (found.node, found.active, found.state) == (holders[0], guest.active, guest.state)

    async def ask(self, work, name, outcome):
        """outcome: what is promised about the definition when the answer is good (None: nothing new)."""
        try:
            answer = await work
        except ClusterError:
            if outcome is not None and self.promised[name] != outcome:
                self.promised[name] = None
            return
        if answer is not None and answer.ok and outcome is not None:
            self.promised[name] = outcome

    async def crash_in(self, work, name, outcome, turns):
        if await broken_off(self.front, work, turns):
            if outcome is not None:
                self.promised[name] = None
        elif outcome is not None and self.promised[name] != outcome:
            self.promised[name] = None
        await self.front.start()

    def work(self, kind, name, target):
        front = self.front
        known = front.world.cluster.get(UUIDS[name]) is not None
        if kind == "define":
            return front.define(name, UUIDS[name]), True
        if not known:
            return None
        if kind == "start":
            return front.begin(name), None
        if kind == "undefine":
            return front.undefine(name), False
        if kind in ("DESTROY", "SUSPEND", "RESUME"):
            return front.relay(name, kind), None
        return self.moved(name, target), None

    async def moved(self, name, target):
        await self.front.world.node_admin.move_domain(UUIDS[name], target, "test", lambda *_: None)

    kinds = st.sampled_from(
        ["define", "start", "undefine", "DESTROY", "SUSPEND", "RESUME", "move", "move", "start"]
    )
    nodes = st.sampled_from(["n1", "n2", "n3"])

    @rule(kind=kinds, name=st.sampled_from(NAMES), place=nodes)
    def client(self, kind, name, place):
        todo = self.work(kind, name, place)
        if todo is not None:
            self.run(self.ask(todo[0], name, todo[1]))

    @rule(kind=kinds, name=st.sampled_from(NAMES), place=nodes, turns=st.integers(0, 60))
    def client_and_crash(self, kind, name, place, turns):
        todo = self.work(kind, name, place)
        if todo is not None:
            self.run(self.crash_in(todo[0], name, todo[1], turns))

    @rule(
        kind=st.sampled_from(["define", "start", "undefine"]),
        name=st.sampled_from(NAMES),
        lost=st.sampled_from(["DOMAIN_DEFINE_XML", "DOMAIN_CREATE", "DOMAIN_UNDEFINE", "import", "drop"]),
    )
    def client_and_lost_reply(self, kind, name, lost):
        self.front.nodes.lose_reply.add(lost)
        self.client(kind, name, "")
        self.front.nodes.lose_reply.clear()

    @rule(
        name=st.sampled_from(NAMES[:2]),
        further=st.integers(1, 2),
        lost=st.sampled_from(
            ["FINISH3_PARAMS", "PREPARE3_PARAMS", "PERFORM3_PARAMS", "CONFIRM3_PARAMS", "import"]
        ),
        seconds=st.sampled_from([0.0, 100.0]),
        mended=st.booleans(),
    )
    def move_and_lost_reply(self, name, further, lost, seconds, mended):
        """From wherever it is to one of the other nodes."""
        known = self.front.world.cluster.get(UUIDS[name])
        if known is None:
            return
        if mended:
            for node in self.front.machines:
                self.mend(node, False)
        names = list(self.front.machines)
        self.front.nodes.lose_reply.update({lost, f"DOMAIN_MIGRATE_{lost}"})
        self.client("move", name, names[(names.index(known.node) + further) % len(names)])
        self.front.nodes.lose_reply.clear()
        self.time_passes(seconds)

    @rule(node=nodes)
    def cut(self, node):
        if self.front.machines[node].reachable:
            self.run(self.inside(lambda: self.front.cut(node)))

    async def inside(self, work):
        work()
        await self.front.quiet()

    @precondition(lambda self: any(not machine.reachable for machine in self.front.machines.values()))
    @rule(node=nodes, power=st.booleans())
    def mend(self, node, power):
        machine = self.front.machines[node]
        if not machine.reachable:
            if power:
                machine.power_cut()
            self.run(self.inside(lambda: self.front.mend(node)))

    @rule(seconds=st.sampled_from([1.0, 30.0, 100.0]))
    def time_passes(self, seconds):
        async def sweep():
            self.front.now += seconds
            self.front.world.recovery.sweep()
            await self.front.quiet()

        self.run(sweep())

    @invariant()
    def nothing_ever_ran_twice(self):
        assert not [name for machine in self.front.machines.values() for name in machine.twice]
        for one in UUIDS.values():
            assert len(self.front.runners(one)) <= 1


Schedule.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


@pytest.mark.timeout(240)
class TestSchedule(Schedule.TestCase):
    """Nothing runs twice and nothing promised is lost in any schedule."""


async def test_many_clients_at_once_leave_a_consistent_cluster(tmp_path):
    async with running(tmp_path) as front:
        dice = random.Random(7)

        async def client(number):
            name = f"web{number % 5}"
            for _ in range(6):
                with contextlib.suppress(ClusterError):
                    act = dice.choice([front.define, front.begin, front.undefine])
                    await act(name)
                await asyncio.sleep(0)

        await asyncio.gather(*(client(number) for number in range(15)))
        await front.settled()
        held = {one: node for node, machine in front.machines.items() for one in machine.guests}
        assert {domain.uuid: domain.node for domain in front.world.cluster.domains()} == held
        assert {row.uuid: row.node for row in front.world.ledger.domains.values()} == held
        assert not front.world.context.locks._locks
