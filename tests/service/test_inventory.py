"""What nodes tell becomes one host: adoption, ids, clashes, loss and return."""

import uuid

import pytest

from clusterhost.model.errors import DomainNotFound
from clusterhost.model.node import Link
from clusterhost.model.states import AFTER, REASONS, after
from clusterhost.service.moving import Move, Phase, shown
from clusterhost.service.owner import choose_owner, proven_stale
from tests.support.clusters import Front, running
from tests.support.fakelibvirt import Guest, domain_xml


def found_on(front, node, name, *, active=False, autostart=False, uuid_=None):
    """Somebody made a domain at the node's own socket before we looked."""
    one = uuid_ or uuid.uuid4().bytes
    machine = front.machines[node]
    guest = machine.guests[one] = Guest(one, name, domain_xml(name, one), autostart=autostart)
    if active:
        machine.boot(guest)
    return one


async def test_what_is_found_on_a_node_is_adopted_with_its_definition(tmp_path):
    front = Front(tmp_path, names=("n1",))
    one = found_on(front, "n1", "old", active=True)
    await front.start()
    domain = front.world.cluster.by_name("old")
    assert (domain.uuid, domain.node, domain.active, domain.persistent) == (one, "n1", True, True)
    assert front.world.ledger.domains[one].xml == domain_xml("old", one)
    assert front.shown == []
    await front.stop()


async def test_what_appears_on_a_node_later_is_shown_with_the_nodes_events(tmp_path):
    async with running(tmp_path) as front:
        await front.define("web")
        one = found_on(front, "n2", "direct", active=True)
        front.machines["n2"].events.insert(0, b"")
        front.machines["n2"].events.pop(0)
        front.nodes.pump("n2")
        domain = front.world.cluster.by_uuid(one)
        assert domain.node == "n2"
        assert front.lifecycle()[-2:] == [(4, 0, domain.id), (2, 0, domain.id)]


async def test_an_id_lasts_for_a_run_and_over_front_ends_and_is_never_given_twice(tmp_path):
    front = Front(tmp_path)
    await front.start()
    seen = set()
    for end in (front.stop, front.crash, front.stop):
        await front.define(f"web{len(seen)}")
        await front.begin(f"web{len(seen)}")
        known = {domain.uuid: domain.id for domain in front.world.cluster.domains()}
        assert not seen & set(known.values()) - {known[one] for one in known}
        await front.quiet()  # notes are written
        await end()
        await front.start()
        assert {domain.uuid: domain.id for domain in front.world.cluster.domains()} == known
        seen |= set(known.values())
    name = front.world.cluster.by_id(min(seen)).name
    await front.relay(name, "DESTROY")
    await front.begin(name)
    assert front.world.cluster.by_name(name).id > max(seen)
    await front.stop()


async def test_node_ids_collide_and_cluster_ids_do_not(tmp_path):
    async with running(tmp_path) as front:
        for number in range(3):
            await front.define(f"web{number}")
            await front.begin(f"web{number}")
        domains = list(front.world.cluster.domains())
        assert {domain.node_id for domain in domains} == {1}
        assert len({domain.id for domain in domains}) == 3


async def test_a_lost_node_keeps_its_domains_listed_and_nothing_is_said_of_them(tmp_path):
    async with running(tmp_path) as front:
        await front.define("web")
        await front.begin("web")
        domain = front.world.cluster.by_name("web")
        front.shown.clear()
        front.cut(domain.node)
        assert front.world.cluster.node(domain.node).link is Link.LOST
        assert front.world.cluster.by_name("web") == domain
        front.mend(domain.node)
        assert front.world.cluster.by_name("web") == domain
        assert front.shown == []


async def test_a_node_that_lost_power_comes_back_and_clients_hear_that_the_run_is_over(tmp_path):
    async with running(tmp_path) as front:
        await front.define("web")
        await front.begin("web")
        domain = front.world.cluster.by_name("web")
        front.cut(domain.node)
        front.machines[domain.node].power_cut()
        front.shown.clear()
        front.mend(domain.node)
        assert not front.world.cluster.by_name("web").active
        assert front.lifecycle() == [(5, 2, -1)]


async def test_a_run_of_a_new_boot_is_a_new_run_even_with_the_same_node_id(tmp_path):
    async with running(tmp_path) as front:
        await front.define("web")
        await front.begin("web")
        domain = front.world.cluster.by_name("web")
        machine = front.machines[domain.node]
        front.cut(domain.node)
        machine.power_cut()
        machine.boot(machine.guests[domain.uuid])
        front.mend(domain.node)
        now = front.world.cluster.by_name("web")
        assert now.node_id == domain.node_id
        assert now.id > domain.id


async def test_two_domains_of_one_name_are_both_seen_until_one_lets_go(tmp_path):
    async with running(tmp_path) as front:
        one, two = found_on(front, "n1", "web"), found_on(front, "n2", "web")
        for node, uuid_ in (("n1", one), ("n2", two)):
            front.machines[node].touched.append(uuid_)
            front.nodes.pump(node)
        assert front.world.cluster.by_name("web").uuid == one
        assert front.world.cluster.by_name("web@n2").uuid == two
        await front.undefine("web")
        assert front.world.cluster.by_name("web").uuid == two
        with pytest.raises(DomainNotFound):
            front.world.cluster.by_name("web@n2")


async def test_one_uuid_on_two_nodes_is_reported_and_nothing_is_removed_without_proof(tmp_path):
    async with running(tmp_path) as front:
        one = found_on(front, "n1", "web")
        found_on(front, "n2", "web", uuid_=one)
        for node in ("n1", "n2"):
            front.machines[node].touched.append(one)
            front.nodes.pump(node)
        await front.quiet()
        assert front.holders(one) == ["n1", "n2"]
        assert front.world.cluster.by_uuid(one).node == "n1"
        assert len(front.world.inventory.clashes) == 1


async def test_a_copy_that_is_proven_older_is_removed_when_its_node_returns(tmp_path):
    async with running(tmp_path) as front:
        one = uuid.uuid4().bytes
        await front.define("web", one)
        home = front.world.cluster.by_uuid(one).node
        other = next(name for name in front.machines if name != home)
        stale = front.machines[other]
        stale.generations[one] = 1
        front.world.inventory.amend(one, generation=5)
        front.cut(other)
        stale.guests[one] = Guest(one, "web", domain_xml("web", one), id=9, state=1)
        front.mend(other)
        await front.quiet()
        assert front.holders(one) == [home]
        done = [name for name in stale.executed if "STORAGE" not in name and name != "identify"]
        assert done[-1] == "drop"


async def test_autostart_found_on_a_node_becomes_the_clusters(tmp_path):
    front = Front(tmp_path, names=("n1",))
    one = found_on(front, "n1", "web", autostart=True)
    await front.start()
    await front.quiet()
    assert not front.machines["n1"].guests[one].autostart
    assert front.world.cluster.by_uuid(one).autostart
    await front.crash()
    await front.start()
    assert front.world.cluster.by_uuid(one).autostart
    await front.stop()


async def test_a_domain_undefined_while_we_were_away_is_gone_at_once_when_all_nodes_are_there(tmp_path):
    front = Front(tmp_path)
    await front.start()
    await front.define("web")
    one = front.world.cluster.by_name("web")
    await front.stop()
    del front.machines[one.node].guests[one.uuid]
    await front.start()
    assert len(front.world.cluster) == 0
    await front.stop()


async def test_a_domain_moved_behind_our_back_keeps_its_id_and_is_not_said_to_stop(tmp_path):
    async with running(tmp_path, names=("n1", "n2")) as front:
        await front.define("web")
        await front.begin("web")
        before = front.world.cluster.by_name("web")
        here, there = (
            front.machines[before.node],
            next(machine for name, machine in front.machines.items() if name != before.node),
        )
        front.shown.clear()
        guest = here.guests[before.uuid]
        there.prepare(guest.xml, 0)
        here.send(guest, there)
        there.arrive(there.guests[before.uuid], 8)
        front.nodes.pump(there.name)
        here.leave(guest, 16)
        front.nodes.pump(here.name)
        now = front.world.cluster.by_name("web")
        assert (now.node, now.id) == (there.name, before.id)
        assert (5, 3, -1) not in front.lifecycle()


@pytest.mark.parametrize("order", [("n1", "n2"), ("n2", "n1")])
async def test_a_domain_moved_while_we_were_away_is_found_whoever_speaks_first(tmp_path, order):
    front = Front(tmp_path, names=("n1", "n2"))
    await front.start()
    await front.define("web")
    await front.begin("web")
    domain = front.world.cluster.by_name("web")
    here, there = (front.machines[name] for name in (domain.node, "n2" if domain.node == "n1" else "n1"))
    await front.crash()
    guest = here.guests.pop(domain.uuid)
    there.guests[domain.uuid] = guest
    for machine in (here, there):
        machine.reachable = False
    await front.start()
    for name in order:
        front.mend(name)
    assert front.world.cluster.by_name("web").node == there.name
    assert front.world.inventory.clashes == {}
    await front.stop()


async def test_an_agent_of_an_unknown_node_or_a_newer_front_end_is_turned_away(tmp_path):
    from clusterhost.control import messages as m

    async with running(tmp_path) as front:
        hello = front.world.inventory.on_hello
        assert "no node named" in hello("n9", m.Hello("n9", 1, "b")).refused
        assert "protocol" in hello("n1", m.Hello("n1", 1, "b", 7, 9)).refused
        assert "epoch" in hello("n1", m.Hello("n1", 1, "b", epoch_seen=front.world.store.epoch + 1)).refused


def test_every_event_has_a_row_and_every_reason_belongs_to_one():
    assert set(AFTER) == set(range(9))
    assert set(REASONS) <= set(AFTER)


def test_a_transient_domain_ends_with_its_run_and_a_persistent_one_does_not():
    from clusterhost.model.domain import Domain

    running_domain = Domain(b"u" * 16, "web", "n1", id=4, node_id=1, state=1)
    assert after(running_domain, 5, 0).id == -1
    assert after(running_domain.with_(persistent=False), 5, 0) is None
    assert after(running_domain, 1, 0).persistent is False
    assert after(running_domain.with_(id=-1, state=5), 1, 0) is None
    assert (after(running_domain, 3, 0).state, after(running_domain, 3, 1).reason) == (3, 2)


@pytest.mark.parametrize(
    ("recorded", "copies", "silent", "pinned", "owner"),
    [
        (None, {}, (), None, None),
        (None, {"n2": False, "n1": False}, (), None, "n1"),
        (None, {"n1": False, "n2": True}, (), None, "n2"),
        ("n1", {"n1": True, "n2": True}, (), None, "n1"),
        ("n1", {"n1": False, "n2": True}, (), None, "n2"),
        ("n1", {"n2": True}, (), None, "n2"),
        ("n1", {"n2": True}, ("n1",), None, "n1"),
        ("n1", {"n1": False, "n2": False}, (), None, "n1"),
        ("n1", {}, (), None, None),
        ("n1", {"n2": True}, (), "n1", "n1"),
    ],
)
def test_the_owner_is_who_runs_it_and_an_unreachable_owner_stays(recorded, copies, silent, pinned, owner):
    assert choose_owner(recorded, copies, silent, pinned) == owner


def test_only_a_lower_generation_that_we_gave_proves_a_copy_stale():
    assert [proven_stale(copy, 5) for copy in (0, 4, 5, 6)] == [False, True, False, False]


def test_a_move_shows_suspended_and_resumed_once_and_no_copy():
    move = Move(b"u" * 16, "web", "n1", "n2", phase=Phase.PERFORMED)
    told = [
        ("n1", 3, 1),
        ("n2", 4, 1),
        ("n2", 2, 1),
        ("n2", 4, 1),
        ("n2", 0, 0),
        ("n1", 6, 2),
        ("n1", 5, 3),
        ("n1", 1, 0),
    ]
    assert [shown(move, "n1", *event) for event in told] == [True, True] + [False] * 6
    assert shown(move, "n1", "n1", 5, 0), "a guest that shuts itself down meanwhile is news"
    assert not shown(None, "n1", "n2", 5, 0)
    assert shown(None, None, "n2", 0, 0)
