"""From whatever a node has, the steps lead to the trunk that networks want, and stop there."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netmgr import plan, steps, vlan
from netmgr.plan import Refused
from netmgr.vlan import Link, Wires, single_steps, trunk_of, trunk_steps
from netmgr.wanted import WantedGuest, WantedNetwork, WantedTag, WantedTrunk, temporary_name

UUID = "11111111-2222-3333-4444-5555555555{:02x}"
BRIDGE = vlan.trunk_name("eth1")


def network(number: int, *tags: int, single: bool = False, device: str = "eth1") -> WantedNetwork:
    bridge = vlan.single_name("eth1", tags[0]) if single else BRIDGE
    trunk = WantedTrunk(device, tags, single)
    return WantedNetwork(UUID.format(number), f"v{number}", 1, number, bridge, "", mode="bridge", trunk=trunk)


def mac(number: int) -> str:
    return f"52:54:00:00:00:{number:02x}"


@dataclass
class Node:
    """Does what steps say, as the kernel would."""

    links: dict[str, Link] = field(default_factory=dict)
    next_index: int = 1

    def add(self, name: str, **values: object) -> None:
        self.links[name] = replace(Link(name, self.next_index), **values)  # type: ignore[arg-type]
        self.next_index += 1

    def change(self, name: str, **values: object) -> None:
        self.links[name] = replace(self.links[name], **values)  # type: ignore[arg-type]

    @property
    def wires(self) -> Wires:
        return Wires(tuple(self.links.values()))

    def perform(self, todo: tuple[steps.Step, ...]) -> None:
        for step in todo:
            getattr(self, f"_{type(step).__name__}")(step)

    def _CreateSwitch(self, step: steps.CreateSwitch) -> None:  # noqa: N802 -- the step's name
        assert step.name not in self.links
        self.add(step.name, kind="bridge", filters=step.filters)

    def _CreateVlanLink(self, step: steps.CreateVlanLink) -> None:  # noqa: N802 -- the step's name
        self.add(step.name, kind="vlan", parent=self.links[step.device].index, tag=step.tag)

    def _MarkLink(self, step: steps.MarkLink) -> None:  # noqa: N802 -- the step's name
        self.change(step.name, alias=step.alias)

    def _RenameLink(self, step: steps.RenameLink) -> None:  # noqa: N802 -- the step's name
        assert step.to not in self.links
        self.links[step.to] = replace(self.links.pop(step.name), name=step.to)

    def _SetKernel(self, step: steps.SetKernel) -> None:  # noqa: N802 -- the step's name
        assert step.path.split("/")[3] in self.links

    def _SetLink(self, step: steps.SetLink) -> None:  # noqa: N802 -- the step's name
        if step.master:
            self.change(step.name, master=self.links[step.master].index, vlans=frozenset())
        if step.up:
            self.change(step.name, up=True)

    def _ReleaseLink(self, step: steps.ReleaseLink) -> None:  # noqa: N802 -- the step's name
        self.change(step.name, master=0, vlans=frozenset())

    def _FilterVlans(self, step: steps.FilterVlans) -> None:  # noqa: N802 -- the step's name
        self.change(step.name, filters=True, first_tag=0)

    def _SetVlans(self, step: steps.SetVlans) -> None:  # noqa: N802 -- the step's name
        assert self.links[step.port].master
        changed = {*step.gone, *(tag.id for tag in step.there)}
        kept = {tag for tag in self.links[step.port].vlans if tag.id not in changed}
        self.change(step.port, vlans=frozenset(kept | set(step.there)))

    def _DeleteLink(self, step: steps.DeleteLink) -> None:  # noqa: N802 -- the step's name
        gone = self.links.pop(step.name)
        for name in [name for name, link in self.links.items() if link.master == gone.index]:
            self.change(name, master=0, vlans=frozenset())


def node(*taps: int, device: bool = True) -> Node:
    made = Node()
    made.add("lo")
    if device:
        made.add("eth1", mac="aa:00:00:00:00:01")
    for number in taps:
        made.add(f"vnet{number}", mac=vlan.tap_mac(mac(number)))
    return made


tags = st.lists(
    st.builds(WantedTag, st.integers(1, 4), st.booleans(), st.booleans()), unique_by=lambda tag: tag.id
)
sharers = st.lists(
    st.tuples(
        st.sets(st.integers(1, 4), min_size=1, max_size=3), st.dictionaries(st.integers(1, 3), tags.map(tuple))
    ),
    min_size=1,
    max_size=3,
)  # fmt: skip


def trunk_for(wanted: list[tuple[set[int], dict[int, tuple[WantedTag, ...]]]]) -> vlan.Trunk:
    found = trunk_of(
        BRIDGE,
        [
            (network(number, *sorted(ids)), {mac(one): WantedGuest(mac(one), vlans=its) for one, its in guests.items()})
            for number, (ids, guests) in enumerate(wanted, 1)
        ],
    )  # fmt: skip
    assert found is not None
    return found


@given(sharers, sharers, st.sets(st.integers(1, 3)), st.integers(0, 20))
def test_steps_lead_to_the_trunk_from_any_other_and_from_any_that_was_broken_off(
    before: list[tuple[set[int], dict[int, tuple[WantedTag, ...]]]],
    wanted: list[tuple[set[int], dict[int, tuple[WantedTag, ...]]]],
    plugged: set[int],
    done: int,
) -> None:
    here, first, then = node(1, 2, 3), trunk_for(before), trunk_for(wanted)
    owed = frozenset(f"vnet{number}" for number in plugged)
    here.perform(trunk_steps(first, here.wires, owed)[:done])
    here.perform(trunk_steps(then, here.wires, owed))
    assert trunk_steps(then, here.wires, owed) == ()
    bridge, device = here.links[BRIDGE], here.links["eth1"]
    assert (bridge.alias, bridge.up, bridge.filters) == (then.mark, True, True)
    assert (device.master, {tag.id for tag in device.vlans}) == (bridge.index, set(then.tags))
    assert not any(tag.native or tag.untagged for tag in device.vlans)
    for number in plugged:
        tap = here.links[f"vnet{number}"]
        assert (tap.master, tap.vlans) == (bridge.index, frozenset(then.taps.get(tap.mac, ())))
    assert temporary_name(BRIDGE, "trunk") not in here.links


@given(st.booleans(), st.integers(0, 20))
def test_a_network_with_a_link_of_its_own_gets_there_from_any_step(plugged: bool, done: int) -> None:
    here, wanted = node(1), network(1, 10, single=True)
    owed = frozenset({"vnet1"} if plugged else ())
    here.perform(single_steps(wanted, here.wires, owed)[:done])
    here.perform(single_steps(wanted, here.wires, owed))
    assert single_steps(wanted, here.wires, owed) == ()
    bridge, link = here.links[wanted.bridge], here.links["eth1.10"]
    assert (link.parent, link.tag, link.master, link.alias) == (2, 10, bridge.index, wanted.mark)
    assert (here.links["vnet1"].master == bridge.index) == plugged


def test_a_link_for_another_device_or_tag_is_made_anew() -> None:
    here, wanted = node(), network(1, 10, single=True)
    here.perform(single_steps(wanted, here.wires))
    here.change("eth1.10", tag=11)
    assert [type(step) for step in single_steps(wanted, here.wires)][:2] == [
        steps.DeleteLink,
        steps.CreateVlanLink,
    ]


def test_a_device_by_another_name_takes_the_place_of_the_first() -> None:
    here = node(1)
    here.add("eth2", mac="aa:00:00:00:00:02")
    first, then = (trunk_of(BRIDGE, [(network(1, 10, device=device), {})]) for device in ("eth1", "eth2"))
    assert first is not None
    assert then is not None
    here.perform(trunk_steps(first, here.wires))
    here.perform(trunk_steps(then, here.wires))
    assert trunk_steps(then, here.wires) == ()
    assert here.links["eth1"].master == 0
    assert here.links["eth2"].master == here.links[BRIDGE].index


def test_a_port_that_is_no_guests_is_left_alone() -> None:
    here, trunk = node(), trunk_for([({10}, {})])
    here.perform(trunk_steps(trunk, here.wires))
    own = frozenset({WantedTag(7, native=True)})
    here.add("somebody", mac="aa:00:00:00:00:09", master=here.links[BRIDGE].index, vlans=own)
    assert trunk_steps(trunk, here.wires) == ()


@pytest.mark.parametrize(
    ("links", "words"),
    [
        ({}, "there is no link eth1 on the node"),
        ({"br0": {"kind": "bridge"}, "eth1": {"master": 1}}, "eth1 is a port of br0 on the node already"),
        (
            {"eth1": {"addresses": frozenset({"192.0.2.1", "fe80::1"})}},
            "eth1 has the node's address 192.0.2.1",
        ),
        ({"eth1": {}, BRIDGE: {"alias": "mine"}}, "a link ct-eth1 is on the node already, without our mark"),
    ],
)
def test_what_is_somebody_elses_is_refused(links: dict[str, dict[str, object]], words: str) -> None:
    here = Node()
    for name, values in links.items():
        here.add(name, **values)
    with pytest.raises(Refused, match=words):
        trunk_steps(trunk_for([({10}, {})]), here.wires)


def test_networks_that_name_other_devices_share_no_bridge() -> None:
    with pytest.raises(Refused, match="name the devices eth1 and eth2"):
        trunk_of(BRIDGE, [(network(1, 10), {}), (network(2, 20, device="eth2"), {})])


def test_a_trunk_goes_with_its_last_network_and_nothing_else_does() -> None:
    aliases = [(BRIDGE, "clusterhost-trunk:eth1"), ("ct-eth2", "clusterhost-trunk:eth2"), ("ct-eth3", "mine")]
    assert vlan.unused(aliases, frozenset({BRIDGE})) == (steps.DeleteLink("ct-eth2"),)


def test_what_a_network_was_before_goes() -> None:
    here, wanted = node(), network(1, 10)
    here.add("virbr1", kind="bridge", alias=wanted.mark)
    here.add("ch101", kind="vxlan", alias=wanted.mark)
    here.add("virbr2", kind="bridge", alias="clusterhost:" + UUID.format(2))
    found = vlan.leftovers(wanted, here.wires, plan.Actual(running=True, files={"x": ""}, rules_of="virbr1"))
    assert [step.name for step in found if isinstance(step, steps.DeleteLink)] == ["virbr1", "ch101"]
    assert {type(step) for step in found} == {
        steps.StopServer,
        steps.DeleteLink,
        steps.DropRules,
        steps.Forget,
    }
    assert vlan.leftovers(wanted, node().wires, plan.Actual()) == ()
