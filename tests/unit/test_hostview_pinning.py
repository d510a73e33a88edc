"""Cpumaps, statistics and parameters between the wire and the cluster's numbers, and the handlers that use them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterhost.frontend.libvirt.handlers import pinning as handlers
from clusterhost.frontend.libvirt.hostview.pinning import Lens, Window, cell_map, spread, tuned_event
from clusterhost.frontend.libvirt.routes import ROUTES
from clusterhost.frontend.libvirt.translate import Translator
from clusterhost.model.cellmap import from_bits, to_bits
from clusterhost.model.domain import Domain
from clusterhost.model.errors import NodeError
from clusterhost.model.node import Link
from clusterhost.model.pinxml import Document, read
from clusterhost.service.ports import ClusterEvent
from compat.libvirt import messages
from compat.libvirt.schema import BY_NAME
from compat.libvirt.typedparams import from_params, to_params
from tests.unit.hostview_support import N1, N2, N3, Client, cells, cluster, libvirt_error, node

WEB = Domain(uuid=bytes(16), name="web", node="n2", id=7, node_id=1)
HANDLE = messages.RemoteNonnullDomain("web", WEB.uuid, 7)
MAP = cell_map(cells(node("n1", 0, N1), node("n2", 1, N2), node("n3", 4, N3)))
"""n1 has CPUs 0-1, n2 2-5, n3 6-9 (the last is offline) and two cells of its own."""


class Told:
    """service.pinning.Pinning that knows one XML."""

    def __init__(self, xml: bytes) -> None:
        self.document_ = read(xml) or Document(xml)

    async def document(self, domain: Domain, *, config: bool) -> Document:
        return self.document_


@dataclass
class Front:
    deadline: float = 5.0


def client(told: dict[str, messages.Message | bytes], xml: bytes = b"<domain/>") -> Any:
    """A session of a cluster whose node n2 answers from a table and has the domain."""
    model = cluster(node("n1", 0, N1), node("n2", 1, N2), node("n3", 4, N3))
    model.put(WEB)
    made: Any = Client(model, {name: {"n2": result} for name, result in told.items()})
    made.cluster, made.front = model, Front()
    made.world.pinning = Told(xml)
    made.world.context = type("Context", (), {"cell_map": staticmethod(made.host.cell_map)})
    return made


def asked(session: Any) -> Any:
    """The arguments of the last call that the node got."""
    return session.nodes.asked[-1][2]


def test_the_map_of_the_cells_is_what_the_host_view_shows() -> None:
    assert [(place.node, place.cell, place.first, place.width) for place in MAP.places] == [
        ("n1", 0, 0, 2),
        ("n2", 1, 2, 4),
        ("n3", 4, 6, 4),
    ]
    assert (MAP.places[2].numa, MAP.places[2].online) == ({0, 1}, {0, 1, 2})
    lost = cell_map(cells(node("n1", 0, N1), node("n2", 1, N2, Link.LOST), node("n3", 4, N3)))
    assert [place.first for place in lost.places] == [0, 2, 6]


def test_vcpus_are_shown_on_the_clusters_cpus() -> None:
    info = [messages.RemoteVcpuInfo(0, 1, 5, 3), messages.RemoteVcpuInfo(1, 0, 0, -1)]
    ret = messages.RemoteDomainGetVcpusRet(info, to_bits({3}, 1) + to_bits(range(4), 1))
    session = client({"DOMAIN_GET_VCPUS": ret})
    args = messages.RemoteDomainGetVcpusArgs(HANDLE, 2, 2)
    shown = asyncio.run(handlers.get_vcpus(session, args))
    assert isinstance(shown, messages.RemoteDomainGetVcpusRet)
    assert asked(session).maplen == 1
    assert [each.cpu for each in shown.info] == [5, -1]
    assert from_bits(shown.cpumaps[:2]) == {5}
    assert from_bits(shown.cpumaps[2:]) == frozenset(range(10))


def test_maps_that_no_libvirt_would_fill_are_left_for_the_node_to_refuse() -> None:
    refusal = libvirt_error(1, "too many")
    for maxinfo, maplen in ((2, 1 << 30), (-1, 2), (1 << 30, 1 << 30), (2, -1)):
        session = client({"DOMAIN_GET_VCPUS": refusal})
        with pytest.raises(NodeError):
            asyncio.run(
                handlers.get_vcpus(session, messages.RemoteDomainGetVcpusArgs(HANDLE, maxinfo, maplen))
            )
        assert (asked(session).maxinfo, asked(session).maplen) == (maxinfo, maplen)


def test_a_pin_without_a_place_of_its_own_has_what_the_domain_was_bound_to() -> None:
    xml = (
        b"<domain><metadata><c:placement xmlns:c='urn:clusterhost:placement:1'><bind of='vcpu' cells='0-1'/>"
        b"<bind of='vcpupin:1' cells='1'/></c:placement></metadata><vcpu cpuset='0-3'>2</vcpu>"
        b"<cputune><vcpupin vcpu='1' cpuset='0-3'/></cputune></domain>"
    )
    full = to_bits(range(4), 1)
    session = client({"DOMAIN_GET_VCPU_PIN_INFO": messages.RemoteDomainGetVcpuPinInfoRet(full * 2, 2)}, xml)
    args = messages.RemoteDomainGetVcpuPinInfoArgs(HANDLE, 2, 3, 1)
    shown = asyncio.run(handlers.get_vcpu_pin_info(session, args))
    assert isinstance(shown, messages.RemoteDomainGetVcpuPinInfoRet)
    assert from_bits(shown.cpumaps[:3]) == frozenset(range(6))
    assert from_bits(shown.cpumaps[3:]) == {2, 3, 4, 5}
    session = client({"DOMAIN_GET_EMULATOR_PIN_INFO": messages.RemoteDomainGetEmulatorPinInfoRet(full, 1)})
    emulator = asyncio.run(
        handlers.get_emulator_pin_info(session, messages.RemoteDomainGetEmulatorPinInfoArgs(HANDLE, 1, 1))
    )
    assert isinstance(emulator, messages.RemoteDomainGetEmulatorPinInfoRet)
    assert emulator.cpumaps == b"\xff", "a map too short for all CPUs is cut, as libvirt does"


def stats(*times: int) -> list[Any]:
    return [param for time in times for param in to_params([("cpu_time", 4, time)])]


def test_cpu_statistics_of_other_nodes_are_zero() -> None:
    ret = messages.RemoteDomainGetCpuStatsRet(stats(1, 2, 3, 4), 1)
    session = client({"DOMAIN_GET_CPU_STATS": ret})
    args = messages.RemoteDomainGetCpuStatsArgs(HANDLE, 1, 0, 128, 0)
    shown = asyncio.run(handlers.get_cpu_stats(session, args))
    assert isinstance(shown, messages.RemoteDomainGetCpuStatsRet)
    assert (asked(session).start_cpu, asked(session).ncpus) == (0, 4)
    assert [param.value.value for param in shown.params] == [0, 0, 1, 2, 3, 4, 0, 0, 0, 0]
    total = messages.RemoteDomainGetCpuStatsRet(stats(10), 1)
    session = client({"DOMAIN_GET_CPU_STATS": total})
    args = messages.RemoteDomainGetCpuStatsArgs(HANDLE, 1, -1, 1, 0)
    assert asyncio.run(handlers.get_cpu_stats(session, args)) == total.to_bytes()
    session = client({"DOMAIN_GET_CPU_STATS": messages.RemoteDomainGetCpuStatsRet([], 4)})
    args = messages.RemoteDomainGetCpuStatsArgs(HANDLE, 0, 0, 0, 0)
    count = asyncio.run(handlers.get_cpu_stats(session, args))
    assert isinstance(count, messages.RemoteDomainGetCpuStatsRet)
    assert count.nparams == 10


@given(st.integers(0, 10), st.integers(1, 12))
def test_statistics_have_one_row_for_each_cpu_that_was_asked_for(start: int, count: int) -> None:
    place = MAP.places[1]
    window = Window.of(place, start, count)
    own = [10 + number for number in range(4)]
    rows = stats(*own[window.first : window.first + window.count])
    shown = [param.value.value for param in spread(window, rows, stats(99), count)]
    expected = [own[n - 2] if 2 <= n < 6 else 0 for n in range(start, start + count)]
    assert shown == expected


def test_xml_in_a_reply_has_the_clusters_numbers_and_id() -> None:
    translator = Translator(cluster())
    translator.cell_map = lambda: MAP
    xml = "<domain type='kvm' id='1'>{}<devices>cpuset='1'</devices></domain>"
    for own, shown in (
        ("<vcpu cpuset='1'>1</vcpu>", "<vcpu cpuset='3'>1</vcpu>"),
        ("<vcpu>1</vcpu>", "<vcpu>1</vcpu>"),
    ):
        ret = messages.RemoteDomainGetXmlDescRet(xml.format(own)).to_bytes()
        expected = messages.RemoteDomainGetXmlDescRet(xml.format(shown)).to_bytes()
        assert translator.numbered(ret, "n2") == expected
    route = ROUTES[BY_NAME["remote:DOMAIN_GET_XML_DESC"].program_id, 14]
    translator = Translator(model := cluster(node("n2", 1, N2)))
    translator.cell_map = lambda: MAP
    model.put(WEB)
    ret = messages.RemoteDomainGetXmlDescRet(xml.format("<vcpu cpuset='1'>1</vcpu>")).to_bytes()
    in_cluster = messages.RemoteDomainGetXmlDescRet.from_bytes(translator.ret(route, ret, WEB.uuid)).xml
    assert in_cluster == xml.format("<vcpu cpuset='3'>1</vcpu>").replace("id='1'", "id='7'")
    in_view = messages.RemoteDomainGetXmlDescRet.from_bytes(translator.ret(route, ret, WEB.uuid, "n2")).xml
    assert in_view == xml.format("<vcpu cpuset='1'>1</vcpu>").replace("id='1'", "id='7'")


def test_a_nodeset_is_shown_as_nodes() -> None:
    document = read(b"<domain><numatune><memory nodeset='0'/></numatune></domain>")
    assert document is not None
    for name, own, expected in (("n2", "0", "0-1,4"), ("n3", "1", "4"), ("n3", "", ""), ("n3", "x", "x")):
        lens = Lens.on(MAP, document, name)
        assert lens is not None
        params = to_params([("numa_mode", 1, 0), ("numa_nodeset", 7, own)])
        assert from_params(lens.numa_parameters(params)) == {"numa_mode": 0, "numa_nodeset": expected}


def test_the_event_of_a_pinning_is_shifted_and_other_tunables_are_not() -> None:
    params = to_params(
        [("cputune.vcpupin1", 7, "1"), ("cputune.emulatorpin", 7, "0-3"), ("cputune.cpu_shares", 4, 3)]
    )
    payload = messages.RemoteDomainEventCallbackTunableMsg(9, HANDLE, params).to_bytes()
    shown = tuned_event(ClusterEvent(1, 346, payload, WEB.uuid, "n2"), MAP)
    found = messages.RemoteDomainEventCallbackTunableMsg.from_bytes(shown.payload)
    assert from_params(found.params) == {
        "cputune.vcpupin1": "3",
        "cputune.emulatorpin": "2-5",
        "cputune.cpu_shares": 3,
    }
    unknown = ClusterEvent(1, 346, payload, WEB.uuid, "n9")
    assert tuned_event(unknown, MAP) is unknown
