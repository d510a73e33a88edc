"""Definitions that name CPUs and cells: where they go, what numbers they get there, what a move makes of them."""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from typing import Any

import pytest

from clusterhost.model.cellmap import CellMap, Place, to_bits
from clusterhost.model.errors import ConfigUnsupported, InvalidArgument, NodeUnreachable, NoPlacement
from clusterhost.service.pinning import CONFIG, LIVE, PinCall
from clusterhost.service.ports import Answer, Caller
from compat.libvirt import messages as lv
from compat.libvirt.schema import BY_NAME
from tests.support.clusters import ANYONE, Front, running
from tests.support.fakelibvirt import domain_xml

MAP = CellMap(
    (
        Place("n1", 0, 0, 2, frozenset({0, 1})),
        Place("n2", 1, 2, 4, frozenset(range(4))),
        Place("n3", 2, 6, 4, frozenset(range(4)), frozenset({0, 1})),
    )
)
PIN = BY_NAME["remote:DOMAIN_PIN_VCPU_FLAGS"]


def pins(vcpu: str = "", nodeset: str = "") -> str:
    """What follows the <os> of the tests' domain."""
    cputune = f"<cputune><vcpupin vcpu='0' cpuset='{vcpu}'/></cputune>" if vcpu else ""
    memory = f"<numatune><memory mode='strict' nodeset='{nodeset}'/></numatune>" if nodeset else ""
    return cputune + memory


async def define(front: Front, more: str, uuid_: bytes | None = None, caller: Caller = ANYONE) -> Answer:
    xml = domain_xml("web", uuid_, more=more)
    payload = lv.RemoteDomainDefineXmlArgs(xml).to_bytes()
    procedure = BY_NAME["remote:DOMAIN_DEFINE_XML"]
    return await front.world.numbering.define(caller, procedure, payload, xml)


def at(front: Front, name: str = "web") -> tuple[str, str, str]:
    """Its node, and the CPUs and cells that the definition has there."""
    domain = front.world.cluster.by_name(name)
    xml = front.machines[domain.node].guests[domain.uuid].xml
    found = dict(re.findall(r"(cpuset|nodeset)='([^']*)'", xml))
    return domain.node, found.get("cpuset", ""), found.get("nodeset", "")


def cells(cluster: Front) -> Front:
    """The front end knows what CPUs the nodes have."""
    cluster.world.context.cell_map = lambda: MAP
    # The nodes joined in this order, so these are their cells.
    assert [node.cell for node in cluster.world.cluster.cells()] == [place.cell for place in MAP.places]
    return cluster


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (pins("3"), ("n2", "1", "")),
        (pins("6,9"), ("n3", "0,3", "")),
        (pins("2-5"), ("n2", "0-3", "")),
        (pins("0-9", "2"), ("n3", "0-3", "0-1")),
        (pins(nodeset="1"), ("n2", "", "0")),
    ],
)
async def test_a_definition_goes_to_the_node_whose_cpus_it_names(
    tmp_path: Path, more: str, expected: tuple[str, str, str]
) -> None:
    async with running(tmp_path) as front:
        assert (await define(cells(front), more)).ok
        assert at(front) == expected


async def test_a_node_out_of_reach_is_named_when_its_cpus_are_asked_for(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        cells(front).cut("n2")
        with pytest.raises(NodeUnreachable, match="n2"):
            await define(front, pins("3"))
        assert (await define(front, pins("2-9"))).ok
        assert at(front)[0] == "n3"


async def test_a_start_goes_where_the_definition_is_bound_to_and_nowhere_else(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        one = uuid.uuid4().bytes
        assert (await define(cells(front), pins(nodeset="0"), one)).ok
        assert at(front) == ("n1", "", "0")
        assert (await define(front, pins(nodeset="1"), one)).ok
        assert at(front)[0] == "n1"
        assert (await front.begin("web")).ok
        assert at(front) == ("n2", "", "0")
        await front.relay("web", "DESTROY")
        front.cut("n2")
        front.mend("n2")
        assert (await define(front, pins(nodeset="7"), one)).ok
        with pytest.raises(NoPlacement, match="binds it to cell 7"):
            await front.begin("web")


async def test_cpus_of_another_node_in_a_definition_move_it_at_its_next_start(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        one = uuid.uuid4().bytes
        assert (await define(cells(front), pins("1"), one)).ok
        assert (await define(front, pins("5"), one)).ok
        assert at(front) == ("n1", "3", "")
        assert (await front.begin("web")).ok
        assert at(front) == ("n2", "3", "")
        assert "numbers" not in front.machines["n2"].guests[one].xml


async def test_a_definition_that_moves_keeps_what_fits_and_the_journal_says_what_does_not(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as front:
        one = uuid.uuid4().bytes
        assert (await define(cells(front), pins("5"), one)).ok
        assert at(front) == ("n2", "3", "")
        domain = front.world.cluster.by_uuid(one)
        await front.world.node_admin.move_domain(domain.uuid, "n3", "test", lambda *_: None)
        assert at(front) == ("n3", "3", "")
        await front.world.node_admin.move_domain(domain.uuid, "n1", "test", lambda *_: None)
        assert at(front) == ("n1", "0-1", "")
        await front.quiet()
        texts = [line.text for line in await front.store.journal(20, "web")]
        assert "no CPU of vcpupin:0 is on node n1: dropped" in texts


async def test_a_running_domain_that_moves_is_fitted_and_so_is_its_definition(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        one = uuid.uuid4().bytes
        assert (await define(cells(front), pins("3,5"), one)).ok
        assert (await front.begin("web")).ok
        await front.world.node_admin.move_domain(one, "n1", "test", lambda *_: None)
        await front.quiet()
        assert front.runners(one) == ["n1"]
        assert at(front) == ("n1", "1", "")


async def test_a_bound_domain_is_not_moved_elsewhere_by_hand_or_by_placement(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        one = uuid.uuid4().bytes
        assert (await define(cells(front), pins(nodeset="0-1"), one)).ok
        assert (await front.begin("web")).ok
        other = "n2" if at(front)[0] == "n1" else "n1"
        with pytest.raises(NoPlacement, match="binds it to n1, n2, not to n3"):
            await front.world.node_admin.move_domain(one, "n3", "test", lambda *_: None)
        assert await front.world.node_admin.move_domain(one, "", "test", lambda *_: None) == other


async def test_in_a_nodes_view_the_numbers_are_the_nodes(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        view = Caller(view="n3", session=1, who="test")
        assert (await define(cells(front), pins("1", "1"), caller=view)).ok
        assert at(front) == ("n3", "1", "1")


async def test_what_no_node_can_honour_is_refused_before_anything_is_defined(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        with pytest.raises(ConfigUnsupported):
            await define(cells(front), pins("1-2"))
        with pytest.raises(ConfigUnsupported):
            await define(front, pins("3", "0"))
        assert not list(front.world.cluster.domains())


async def test_a_defined_domain_is_not_created_from_xml_that_names_another_node(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        one = uuid.uuid4().bytes
        assert (await define(cells(front), pins("1"), one)).ok
        xml = domain_xml("web", one, more=pins("3"))
        procedure = BY_NAME["remote:DOMAIN_CREATE_XML"]
        payload = lv.RemoteDomainCreateXmlArgs(xml, 0).to_bytes()
        with pytest.raises(
            ConfigUnsupported, match="is defined on node n1, its XML names CPUs or cells of n2"
        ):
            await front.world.numbering.create_xml(ANYONE, procedure, payload, xml, 0)
        own = domain_xml("mail", more=pins("9"))
        payload = lv.RemoteDomainCreateXmlArgs(own, 0).to_bytes()
        assert (await front.world.numbering.create_xml(ANYONE, procedure, payload, own, 0)).ok
        assert at(front, "mail") == ("n3", "3", "")


def pin_call(front: Front, numbers: set[int], flags: int, told: list[tuple[str, Any, int]]) -> PinCall:
    """`vcpupin web 0`; what the node is told is noted in `told`."""
    domain = front.world.cluster.by_name("web")

    def to_node(own: frozenset[int], affects: int) -> bytes:
        told.append((front.world.cluster.by_name("web").node, set(own), affects))
        return lv.RemoteDomainPinVcpuFlagsArgs(front.handle("web"), 0, to_bits(own, 1), affects).to_bytes()

    return PinCall(domain.uuid, "vcpupin:0", True, frozenset(numbers), flags, PIN, b"", to_node)


async def test_a_pin_to_another_node_is_tried_before_the_domain_moves(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        one = uuid.uuid4().bytes
        assert (await define(cells(front), pins("1"), one)).ok
        assert (await front.begin("web")).ok
        told: list[tuple[str, Any, int]] = []
        assert (await front.world.pinning.pin(ANYONE, pin_call(front, {3}, LIVE, told))).ok
        assert told == [("n1", {0, 1}, LIVE), ("n2", {1}, LIVE)]
        assert front.runners(one) == ["n2"]
        told.clear()
        front.machines["n3"].refuses = True
        with pytest.raises(Exception, match="no room for a guest that arrives"):
            await front.world.pinning.pin(ANYONE, pin_call(front, {7}, LIVE, told))
        assert front.runners(one) == ["n2"]
        assert told[-1] == ("n2", {1}, LIVE), "it is pinned as it was"


async def test_a_pin_of_the_definition_is_written_by_the_other_nodes_numbers(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        one = uuid.uuid4().bytes
        assert (await define(cells(front), pins("1"), one)).ok
        told: list[tuple[str, Any, int]] = []
        assert (await front.world.pinning.pin(ANYONE, pin_call(front, {8}, CONFIG, told))).ok
        assert told == [("n1", {2}, CONFIG)]
        assert 'numbers cell="2"' in front.machines["n1"].guests[one].xml
        assert (await front.begin("web")).ok
        assert front.runners(one) == ["n3"]


async def test_parts_of_two_nodes_and_nodes_it_may_not_use_are_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        assert (await define(cells(front), pins("0-1", nodeset="0"))).ok
        assert (await front.begin("web")).ok
        told: list[tuple[str, Any, int]] = []
        with pytest.raises(InvalidArgument, match="parts of several nodes"):
            await front.world.pinning.pin(ANYONE, pin_call(front, {1, 2}, LIVE, told))
        with pytest.raises(InvalidArgument, match=r"no node satisfies.*numatune: n1; vcpupin:0: n2"):
            await front.world.pinning.pin(ANYONE, pin_call(front, {2, 3, 4, 5}, LIVE, told))
        with pytest.raises(InvalidArgument, match=r"the CPUs are those of n2.*numatune: n1"):
            await front.world.pinning.pin(ANYONE, pin_call(front, {4}, LIVE, told))
        assert told == []
