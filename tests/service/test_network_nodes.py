"""Nodes follow the networks of the cluster: who is told what, what a refusal does, and what outlives a restart."""

from clusterhost.model.node import Admin
from netmgr.orders import ChangeNetwork, KeepOnly, RemoveNetwork, SetNetwork
from tests.support.clusters import ANYONE, Front, running

BLUE = (
    "<network><name>blue</name><ip address='10.1.0.1' prefix='24'>"
    "<dhcp><range start='10.1.0.10' end='10.1.0.20'/></dhcp></ip></network>"
)
ADD_LAST, DELETE = 3, 2
DHCP_HOST, DNS_HOST = 4, 10
MAC = "52:54:00:00:00:07"
UPDATES = [
    (
        ADD_LAST,
        DHCP_HOST,
        -1,
        f"<host mac='{MAC}' name='a' ip='10.1.0.7'/>",
        None,
        [(MAC, ("10.1.0.7",))],
        [],
    ),
    (ADD_LAST, DNS_HOST, -1, "<host ip='10.1.0.9'><hostname>b</hostname></host>", ["10.1.0.9"], [], []),
    (DELETE, DHCP_HOST, -1, f"<host mac='{MAC}'/>", None, [], [MAC]),
]
"""Command, section, index, document; and what nodes hear: addresses with names, guests, keys of who is gone."""


async def start(front: Front) -> bytes:
    networks = front.world.networking.networks
    net = await networks.define(ANYONE, BLUE, validate=False)
    await networks.start(ANYONE, net.uuid)
    await front.quiet()
    return net.uuid


def told(front: Front, kind: type, name: str = "blue") -> list[str]:
    orders = [(node, order) for node, order in front.nodes.network_orders if isinstance(order, kind)]
    return sorted(node for node, order in orders if kind is not SetNetwork or order.network.name == name)


async def test_a_new_cluster_has_a_default_network_that_stays_away_once_undefined(tmp_path):
    async with running(tmp_path) as front:
        networks = front.world.networking.networks
        default = networks.by_name("default")
        assert (default.active, default.row.autostart) == (True, True)
        await front.quiet()
        assert set(told(front, SetNetwork, "default")) == {"n1", "n2", "n3"}
        await networks.destroy(ANYONE, default.uuid)
        await networks.undefine(ANYONE, default.uuid)
        await front.stop()
        await front.start()
        assert [net.name for net in front.world.networking.networks.all()] == []


async def test_a_network_that_starts_is_told_to_all_nodes_and_one_that_ends_too(tmp_path):
    async with running(tmp_path) as front:
        uuid = await start(front)
        assert told(front, SetNetwork) == ["n1", "n2", "n3"]
        await front.world.networking.networks.destroy(ANYONE, uuid)
        assert told(front, RemoveNetwork) == ["n1", "n2", "n3"]
        assert front.world.networking.nodes.states(uuid) == []


async def test_a_node_that_cannot_have_a_network_is_shown_with_its_reason_and_gets_no_guest_of_it(tmp_path):
    async with running(tmp_path) as front:
        front.nodes.network_problems["n2"] = "a link virbr1 is on the node already"
        uuid = await start(front)
        said = {state.node: state.problem for state in front.world.networking.nodes.states(uuid)}
        assert said == {"n1": "", "n2": "a link virbr1 is on the node already", "n3": ""}
        devices = "<domain><devices><interface type='network'><source network='blue'/></interface></devices></domain>"
        lacking = front.world.context.placing.lacking(devices)
        assert lacking == {"n2": "cannot have network blue: a link virbr1 is on the node already"}


async def test_a_node_that_leaves_is_asked_to_drop_its_networks_and_the_others_forget_its_address(tmp_path):
    async with running(tmp_path) as front:
        await start(front)
        front.nodes.network_orders.clear()
        await front.world.node_admin.set_admin("n3", Admin.DISABLED, "test")
        await front.world.node_admin.remove("n3", "test")
        leaving = [node for node, order in front.nodes.network_orders if order == KeepOnly((), leaving=True)]
        assert leaving == ["n3"]
        assert front.world.ledger.underlay("n3") == ""


async def test_the_first_orders_after_a_restart_name_peers_that_have_not_spoken_yet(tmp_path):
    async with running(tmp_path) as front:
        uuid = await start(front)
        await front.world.networking.networks.set_autostart(ANYONE, uuid, True)
        peers = {name: front.world.ledger.underlay(name) for name in ("n1", "n2", "n3")}
        assert all(peers.values())
        await front.stop()
        await front.start()
        first = {}
        for node, order in front.nodes.network_orders:
            if isinstance(order, SetNetwork) and order.network.name == "blue":
                first.setdefault(node, set(order.network.peers))
        assert first == {node: {peer for other, peer in peers.items() if other != node} for node in peers}


async def test_an_update_of_names_or_hosts_tells_nodes_that_part_alone(tmp_path):
    async with running(tmp_path) as front:
        uuid = await start(front)
        networks = front.world.networking.networks
        for command, section, index, xml, names, guests, gone in UPDATES:
            front.nodes.network_orders.clear()
            await networks.update(ANYONE, uuid, command, section, index, xml, 0)
            assert sorted(node for node, _ in front.nodes.network_orders) == ["n1", "n2", "n3"]
            for _, order in front.nodes.network_orders:
                assert isinstance(order, ChangeNetwork), order
                change = order.change
                hosts = None if change.dns is None else [host[0] for host in change.dns.hosts]
                found = [(guest.mac, guest.addresses) for guest in change.guests]
                assert (hosts, found, [one.key for one in change.gone]) == (names, guests, gone)


async def test_a_node_that_does_not_take_a_part_is_told_the_whole_network(tmp_path):
    async with running(tmp_path) as front:
        uuid = await start(front)
        front.nodes.older.add("n2")
        front.nodes.network_orders.clear()
        await front.world.networking.networks.update(ANYONE, uuid, *UPDATES[0][:4], 0)
        assert told(front, ChangeNetwork) == ["n1", "n2", "n3"]
        assert told(front, SetNetwork) == ["n2"]
        said = {state.node: state.problem for state in front.world.networking.nodes.states(uuid)}
        assert said == {"n1": "", "n2": "", "n3": ""}


async def test_an_update_of_more_than_names_tells_nodes_the_whole_network(tmp_path):
    async with running(tmp_path) as front:
        uuid = await start(front)
        front.nodes.network_orders.clear()
        group = "<portgroup name='p'><bandwidth><inbound average='5'/></bandwidth></portgroup>"
        await front.world.networking.networks.update(ANYONE, uuid, ADD_LAST, 9, -1, group, 0)
        assert (told(front, ChangeNetwork), told(front, SetNetwork)) == ([], ["n1", "n2", "n3"])
