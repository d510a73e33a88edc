"""Migration between nodes: client-driven, peer-to-peer, ours; one copy whatever happens."""

import asyncio
import contextlib
import itertools
import uuid

import pytest

from clusterhost.model.errors import ClusterError, InvalidArgument, NodeUnreachable
from clusterhost.service.peers import memory_uri, way_of
from clusterhost.service.ports import Caller
from clusterhost.service.verdict import Seen, Verdict, decide
from clusterhost.store.rows import Intent
from compat.libvirt import messages as lv
from compat.libvirt import typedparams
from compat.libvirt.schema import BY_NAME
from tests.support.clusters import running
from tests.support.fakelibvirt import domain_xml

LIVE, P2P, PERSIST, UNDEFINE = 1, 2, 8, 16


class Client:
    """virsh migrate, step by step.  source, target: names of views; target None: placement's choice."""

    def __init__(self, front, name, target, flags=LIVE | PERSIST | UNDEFINE, uri=None):
        self.front, self.name, self.flags = front, name, flags
        self.domain = front.world.cluster.by_name(name)
        self.handle = lv.RemoteNonnullDomain(name, self.domain.uuid, self.domain.id)
        self.here, self.there = Caller(view=self.domain.node, session=11), Caller(view=target, session=12)
        self.values = {} if uri is None else {"migrate_uri": uri}
        self.values["destination_name"] = name

    async def step(self, caller, kind, args):
        procedure = BY_NAME[f"remote:DOMAIN_MIGRATE_{kind}3_PARAMS"]
        return await self.front.world.migrations.step(caller, procedure, args.to_bytes())

    def params(self, **more):
        return typedparams.to_params({**self.values, **more})

    async def begin(self):
        args = lv.RemoteDomainMigrateBegin3ParamsArgs(self.handle, self.params(), self.flags)
        answer = await self.step(self.here, "BEGIN", args)
        self.xml = lv.RemoteDomainMigrateBegin3ParamsRet.from_bytes(answer.payload).xml
        return answer

    async def prepare(self, xml=None):
        args = lv.RemoteDomainMigratePrepare3ParamsArgs(
            self.params(destination_xml=xml or self.xml), b"c", self.flags
        )
        answer = await self.step(self.there, "PREPARE", args)
        if answer.ok:
            ret = lv.RemoteDomainMigratePrepare3ParamsRet.from_bytes(answer.payload)
            self.values["migrate_uri"] = ret.uri_out
        return answer

    async def perform(self, dconnuri=None):
        args = lv.RemoteDomainMigratePerform3ParamsArgs(
            self.handle, dconnuri, self.params(), b"c", self.flags
        )
        return await self.step(self.here, "PERFORM", args)

    async def finish(self, cancelled=0):
        args = lv.RemoteDomainMigrateFinish3ParamsArgs(self.params(), b"c", self.flags, cancelled)
        return await self.step(self.there, "FINISH", args)

    async def confirm(self, cancelled=0):
        args = lv.RemoteDomainMigrateConfirm3ParamsArgs(
            self.handle, self.params(), b"c", self.flags, cancelled
        )
        return await self.step(self.here, "CONFIRM", args)

    async def all(self):
        return [await step() for step in (self.begin, self.prepare, self.perform, self.finish, self.confirm)]


async def started(front, name="web"):
    one = uuid.uuid4().bytes
    await front.define(name, one)
    await front.begin(name)
    front.shown.clear()
    return front.world.cluster.by_uuid(one)


def another(front, node):
    return next(name for name in front.machines if name != node)


@pytest.mark.parametrize("flags", [LIVE, LIVE | PERSIST, LIVE | PERSIST | UNDEFINE])
async def test_client_driven_the_domain_moves_as_on_one_host(tmp_path, flags):
    async with running(tmp_path) as front:
        before = await started(front)
        target = another(front, before.node)
        assert all(answer.ok for answer in await Client(front, "web", target, flags).all())
        now = front.world.cluster.by_name("web")
        assert (now.node, now.id, now.persistent) == (target, before.id, True)
        assert front.holders(now.uuid) == [target] == front.runners(now.uuid)
        assert front.lifecycle() == [(3, 1, before.id), (4, 1, before.id)]
        assert now.generation > before.generation
        assert not front.world.ledger.intents
        assert front.world.ledger.domains[now.uuid].node == target


async def test_a_client_that_says_undefine_source_and_not_persistent_gets_a_transient_domain(tmp_path):
    async with running(tmp_path) as front:
        before = await started(front)
        await Client(front, "web", another(front, before.node), LIVE | UNDEFINE).all()
        assert not front.world.cluster.by_name("web").persistent


async def test_without_a_node_at_the_destination_placement_picks_another(tmp_path):
    async with running(tmp_path, names=("n1", "n2")) as front:
        before = await started(front)
        await Client(front, "web", None).all()
        assert front.world.cluster.by_name("web").node == another(front, before.node)


async def test_the_nodes_migration_address_is_supplied_unless_the_client_gives_one(tmp_path):
    async with running(tmp_path) as front:
        before = await started(front)
        target = another(front, before.node)
        client = Client(front, "web", target)
        await client.begin()
        await client.prepare()
        assert client.values["migrate_uri"] == f"tcp://addr-{target}:49152"
        given = Client(front, "web", target, uri="tcp://other")
        await front.settled()
        await given.begin()
        await given.prepare()
        assert given.values["migrate_uri"] == "tcp://other:49152"
    assert memory_uri("fd00::1") == "tcp://[fd00::1]"


async def test_a_target_that_refuses_leaves_everything_as_it_was(tmp_path):
    async with running(tmp_path) as front:
        before = await started(front)
        client = Client(front, "web", before.node)
        await client.begin()
        assert not (await client.prepare()).ok
        assert (await client.confirm(cancelled=1)).ok
        assert front.world.cluster.by_name("web") == front.world.cluster.by_name("web").with_(
            node=before.node
        )
        assert front.runners(before.uuid) == [before.node]
        assert not list(front.world.context.moves)


@pytest.mark.parametrize("steps", [1, 2, 3])
async def test_a_client_that_gives_up_half_way_leaves_one_running_copy(tmp_path, steps):
    async with running(tmp_path) as front:
        before = await started(front)
        client = Client(front, "web", another(front, before.node))
        for step in (client.begin, client.prepare, client.perform)[:steps]:
            assert (await step()).ok
        for session in (11, 12):
            front.nodes.close_session(session)
            front.world.migrations.closed(session)
        await front.settled()
        now = front.world.cluster.by_name("web")
        assert (now.node, now.id, now.state) == (before.node, before.id, 1)
        assert front.holders(now.uuid) == [before.node] == front.runners(now.uuid)
        assert not any(event in (2, 5) for event, _, _ in front.lifecycle())


async def test_a_client_that_leaves_after_finish_has_moved_it(tmp_path):
    async with running(tmp_path) as front:
        before = await started(front)
        target = another(front, before.node)
        client = Client(front, "web", target)
        for step in (client.begin, client.prepare, client.perform, client.finish):
            assert (await step()).ok
        front.world.migrations.closed(12)
        await front.settled()
        assert front.holders(before.uuid) == [target] == front.runners(before.uuid)
        assert front.world.cluster.by_name("web").id == before.id


async def test_a_target_that_loses_power_in_the_middle_leaves_it_running_once(tmp_path):
    async with running(tmp_path) as front:
        before = await started(front)
        target = another(front, before.node)
        client = Client(front, "web", target)
        await client.begin()
        await client.prepare()
        front.cut(target)
        front.machines[target].power_cut()
        assert not (await client.perform()).ok
        with pytest.raises(NodeUnreachable):
            await client.finish(cancelled=1)
        assert (await client.confirm(cancelled=1)).ok
        assert front.runners(before.uuid) == [before.node]
        front.mend(target)
        await front.settled()
        assert front.holders(before.uuid) == [before.node]
        assert front.world.cluster.by_name("web").node == before.node


async def test_nobody_runs_it_while_it_is_not_known_whether_the_target_does(tmp_path):
    async with running(tmp_path) as front:
        before = await started(front)
        target = another(front, before.node)
        client = Client(front, "web", target)
        for step in (client.begin, client.prepare, client.perform):
            await step()
        front.nodes.lose_reply.add("DOMAIN_MIGRATE_FINISH3_PARAMS")
        with pytest.raises(NodeUnreachable):
            await client.finish()
        with pytest.raises(NodeUnreachable, match="not known"):
            await client.confirm(cancelled=1)
        for session in (11, 12):
            front.nodes.close_session(session)
        await front.settled()
        assert front.machines[before.node].guests[before.uuid].state == 3
        front.mend(target)
        await front.settled()
        assert front.holders(before.uuid) == [target] == front.runners(before.uuid)
        assert front.world.cluster.by_name("web").id == before.id


@pytest.mark.parametrize("where", ["named", "any"])
async def test_peer_to_peer_goes_through_the_socket_that_the_agent_offers(tmp_path, where):
    async with running(tmp_path, names=("n1", "n2")) as front:
        before = await started(front)
        target = another(front, before.node)
        socket = f"{front.settings.listen.unix_sock_dir}/libvirt-sock"
        uri = f"qemu+unix:///system?socket={socket}" + (f"&node={target}" if where == "named" else "")
        client = Client(front, "web", None, LIVE | P2P | PERSIST | UNDEFINE)
        assert (await client.perform(uri)).ok
        now = front.world.cluster.by_name("web")
        assert (now.node, now.id, front.holders(now.uuid)) == (target, before.id, [target])
        assert front.lifecycle() == [(3, 1, before.id), (4, 1, before.id)]
        assert not front.world.ledger.intents


async def test_peer_to_peer_that_fails_leaves_it_where_it_was(tmp_path):
    async with running(tmp_path, names=("n1", "n2")) as front:
        before = await started(front)
        target = another(front, before.node)
        front.machines[target].refuses = True
        client = Client(front, "web", None, LIVE | P2P)
        answer = await client.perform(f"qemu:///system?node={target}")
        assert not answer.ok
        with pytest.raises(InvalidArgument, match="already"):
            await client.perform(f"qemu:///system?node={before.node}")
        assert front.world.cluster.by_name("web").node == before.node
        assert not list(front.world.context.moves)


async def test_into_the_cluster_placement_picks_and_the_domain_is_adopted(tmp_path):
    async with running(tmp_path) as front:
        await front.define("other")
        one = uuid.uuid4().bytes
        client = Client(front, "other", None, LIVE | PERSIST)
        client.name, client.values["destination_name"] = "guest", "guest"
        assert (await client.prepare(domain_xml("guest", one))).ok
        (target,) = front.holders(one)
        front.machines[target].guests[one].ready = True
        assert (await client.finish()).ok
        domain = front.world.cluster.by_name("guest")
        assert (domain.node, domain.active, domain.persistent) == (target, True, True)
        assert not list(front.world.context.moves)
        assert not front.world.ledger.intents


async def test_out_of_the_cluster_the_model_follows_the_node(tmp_path):
    async with running(tmp_path) as front:
        before = await started(front)
        client = Client(front, "web", None)
        await client.begin()
        guest = front.machines[before.node].guests[before.uuid]
        guest.state, guest.reason = 3, 2
        assert (await client.confirm()).ok
        assert len(front.world.cluster) == 0
        assert front.lifecycle()[-2:] == [(5, 3, -1), (1, 0, -1)]


async def test_we_move_running_and_inactive_domains_and_drain_a_node(tmp_path):
    async with running(tmp_path, names=("n1", "n2")) as front:
        told = []
        for number in range(4):
            await front.define(f"web{number}")
        await front.begin("web0")
        await front.begin("web1")
        ids = {domain.name: domain.id for domain in front.world.cluster.domains()}
        front.shown.clear()
        await front.world.node_admin.drain("n1", "test", lambda *one: told.append(one))
        assert {domain.node for domain in front.world.cluster.domains()} == {"n2"}
        assert {domain.name: domain.id for domain in front.world.cluster.domains()} == ids
        assert front.machines["n1"].guests == {}
        assert told[-1][:2] == (2, 2)
        assert {event for event, _, _ in front.lifecycle()} == {3, 4}
        await front.world.node_admin.remove("n1", "test")
        assert set(front.world.cluster.nodes) == {"n2"}
        assert "n1" not in front.nodes.nodes_keys


async def test_a_node_with_domains_is_not_removed_and_a_drain_that_cannot_finish_says_why(tmp_path):
    async with running(tmp_path, names=("n1", "n2")) as front:
        await front.define("web", caller=Caller(view="n1"))
        await front.begin("web")
        with pytest.raises(ClusterError, match="drain it first"):
            await front.world.node_admin.remove("n1", "test")
        front.cut("n2")
        with pytest.raises(ClusterError, match=r"1 of 1 domains stay on node n1: web: .*n2"):
            await front.world.node_admin.drain("n1", "test", lambda *_: None)
        assert front.runners(front.world.cluster.by_name("web").uuid) == ["n1"]


def test_where_a_destination_uri_leads(tmp_path):
    from clusterhost.config import Settings
    from clusterhost.model.cluster import Cluster
    from clusterhost.model.node import Node

    settings = Settings()
    cluster = Cluster(b"c" * 16, "c", "cluster")
    cluster.put_node(Node("n1", 0))
    ours = settings.listen.unix_sock_dir
    table = {
        "qemu+unix:///system?socket=/x/y&node=n1": (True, "n1"),
        "qemu+tcp://somewhere/system?node=n7": (False, None),
        f"qemu+unix:///system?socket={ours}/libvirt-sock": (True, None),
        "qemu+unix:///system?socket=/other/libvirt-sock": (False, None),
        "qemu:///system": (True, None),
        f"qemu+tcp://{settings.cluster.hostname}/system": (True, None),
        "qemu+ssh://elsewhere/system": (False, None),
        "not a uri": (False, None),
    }
    for uri, (inside, node) in table.items():
        way = way_of(uri, settings, cluster)
        assert (way.inside, way.node) == (inside, node), uri


def test_the_verdict_never_lets_both_ends_run():
    for source, target, told in itertools.product(Seen, Seen, (False, True)):
        verdict = decide(source, target, told_to_run=told)
        if target is Seen.RUNNING:
            assert verdict is Verdict.TARGET
        if target is Seen.UNKNOWN and told and source is not Seen.RUNNING:
            assert verdict is Verdict.WAIT
        if source is Seen.RUNNING and target is not Seen.RUNNING:
            assert verdict is Verdict.SOURCE


async def test_a_definition_is_never_without_a_home_whatever_breaks_while_it_moves(tmp_path):
    for broken in ("export", "import", "drop"):
        async with running(tmp_path / broken, names=("n1", "n2")) as front:
            one = uuid.uuid4().bytes
            await front.define("web", one, caller=Caller(view="n1"))
            front.nodes.lose_reply.add(broken)
            with contextlib.suppress(ClusterError):
                await front.world.node_admin.move_domain(one, "n2", "test", lambda *_: None)
            for name in ("n1", "n2"):
                if not front.machines[name].reachable:
                    front.mend(name)
            await front.settled()
            owner = front.world.cluster.by_uuid(one).node
            assert front.holders(one) == [owner], broken
            assert not [
                intent for intent in front.world.ledger.intents.values() if isinstance(intent, Intent)
            ]


@pytest.mark.parametrize("flags", [P2P | LIVE, P2P | LIVE | PERSIST | UNDEFINE])
async def test_a_front_end_that_dies_after_a_peer_to_peer_move_finds_the_same_run_at_the_target(
    tmp_path, flags
):
    async with running(tmp_path, names=("n1", "n2")) as front:
        before = await started(front)
        await front.quiet()
        target = another(front, before.node)
        task = asyncio.ensure_future(
            Client(front, "web", None, flags).perform(f"qemu:///system?node={target}")
        )
        while front.runners(before.uuid) != [target]:
            await asyncio.sleep(0)
        await front.crash()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await front.start()
        await front.settled()
        now = front.world.cluster.by_name("web")
        assert (now.node, now.id, front.holders(now.uuid)) == (target, before.id, [target])
