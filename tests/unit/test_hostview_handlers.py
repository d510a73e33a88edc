"""What clients are told about the host, through the wire structs."""

from __future__ import annotations

from typing import Any

import pytest

from clusterhost.frontend.libvirt.errors import WireError
from clusterhost.frontend.libvirt.handlers.host import HOST_ROUTES
from clusterhost.frontend.libvirt.hostview.cells import arrange, cpu_map, locate, node_info, read_facts
from clusterhost.frontend.libvirt.hostview.trees import parse
from clusterhost.model.domain import Domain
from clusterhost.model.errors import ClusterError, InvalidArgument, NodeError, NodeUnreachable, Unsupported
from clusterhost.model.node import Admin, Figures, Host, Link, Node
from compat.libvirt import messages
from compat.libvirt.schema import BY_NAME
from tests.unit.hostview_support import (
    MIB,
    N1,
    N2,
    N3,
    Client,
    awaited,
    cluster,
    decoded,
    libvirt_error,
    node,
)
from tests.unit.test_hostview_domaincaps import KVM, OLDER, QEMU


def three(**told: Any) -> Client:
    """A client of n1, n2, n3."""
    return Client(cluster(node("n1", 0, N1), node("n2", 1, N2), node("n3", 2, N3)), told)


async def ask(client: Client, name: str, **fields: Any) -> Any:
    """Call a handler as the front end does."""
    procedure = BY_NAME[f"remote:{name}"]
    args = None if procedure.args is None else procedure.args(**fields)
    result = HOST_ROUTES[f"remote:{name}"][1](client, args)
    if awaited(result):
        result = await result  # type: ignore[misc]
    assert procedure.ret is not None
    return decoded(procedure.ret, result)  # type: ignore[arg-type]


def at_once(client: Client, name: str, **fields: Any) -> Any:
    """Call a handler that must not wait for a node."""
    procedure = BY_NAME[f"remote:{name}"]
    args = None if procedure.args is None else procedure.args(**fields)
    result = HOST_ROUTES[f"remote:{name}"][1](client, args)
    assert not awaited(result)
    assert procedure.ret is not None
    return decoded(procedure.ret, result)  # type: ignore[arg-type]


def test_every_route_is_a_call_of_the_schema() -> None:
    assert all(BY_NAME[name].kind == "call" for name in HOST_ROUTES)


def test_node_info_sums_and_has_room_for_every_cpu() -> None:
    info = at_once(three(), "NODE_GET_INFO")
    assert info.model.rstrip(b"\0") == b"x86_64"
    assert (info.memory, info.cpus, info.mhz, info.nodes) == (4942028 + 8388608 + 9884056, 9, 2000, 3)
    assert info.nodes * info.sockets * info.cores * info.threads >= 10


def test_equal_nodes_keep_their_shape() -> None:
    client = Client(cluster(node("n1", 0, N1), node("n2", 1, N1)))
    info = at_once(client, "NODE_GET_INFO")
    assert (info.nodes, info.sockets, info.cores, info.threads) == (2, 1, 2, 1)


def test_a_lost_node_has_its_cpus_offline_and_no_memory_but_keeps_its_numbers() -> None:
    client = Client(cluster(node("n1", 0, N1, Link.LOST), node("n2", 1, N2)))
    info = at_once(client, "NODE_GET_INFO")
    assert (info.cpus, info.memory, info.nodes) == (4, 8388608, 2)
    found = at_once(client, "NODE_GET_CPU_MAP", need_map=1, need_online=1, flags=0)
    assert (found.cpumap, found.online, found.ret) == (bytes([0b111100]), 4, 6)
    assert at_once(client, "NODE_GET_CELLS_FREE_MEMORY", startCell=0, maxcells=8).cells == [0, 200 * MIB]


def test_without_any_node_the_error_names_the_cause() -> None:
    with pytest.raises(NodeUnreachable, match="has no node yet"):
        at_once(Client(cluster()), "NODE_GET_INFO")
    lost = Client(cluster(node("n1", 0, N1, Link.LOST)))
    for name in ("NODE_GET_INFO", "NODE_GET_FREE_MEMORY"):
        with pytest.raises(NodeUnreachable, match="n1 is out-of-reach"):
            at_once(lost, name)
    assert "<capabilities>" in at_once(lost, "CONNECT_GET_CAPABILITIES").capabilities


def test_versions_are_the_lowest_and_the_name_is_the_clusters() -> None:
    client = three()
    assert at_once(client, "CONNECT_GET_LIB_VERSION").lib_ver == 9000000
    assert at_once(client, "CONNECT_GET_VERSION").hv_ver == 7001000
    assert at_once(client, "CONNECT_GET_TYPE").type == "QEMU"
    assert at_once(client, "CONNECT_GET_HOSTNAME").hostname == "demo.example"
    model = at_once(client, "NODE_GET_SECURITY_MODEL")
    assert (model.model, model.doi) == (b"none\0", b"0\0")
    assert "demo" in at_once(client, "CONNECT_GET_SYSINFO", flags=0).sysinfo


def test_answers_are_kept_until_a_node_changes_not_when_a_domain_does() -> None:
    client = Client(cluster(node("n1", 0, N1), node("n2", 1, N2)))
    handler = HOST_ROUTES["remote:CONNECT_GET_CAPABILITIES"][1]
    first = handler(client, None)
    client.model.put(Domain(b"d" * 16, "web", "n1"))
    client.model.put_node(node("n1", 0, N1))
    assert handler(client, None) is first
    client.model.put_node(node("n2", 1, N2, Link.LOST))
    assert handler(client, None) is not first
    client.model.put_node(node("n3", 2, N1))
    assert at_once(client, "CONNECT_GET_CAPABILITIES").capabilities.count("<cell id=") == 3


def test_free_memory_follows_the_figures() -> None:
    client = three()
    assert at_once(client, "NODE_GET_FREE_MEMORY").freeMem == 600 * MIB
    old = client.model.node("n1")
    client.model.put_node(
        Node("n1", 0, Admin.ENABLED, Link.UP, host=old.host, figures=Figures(free_memory=7))
    )
    assert at_once(client, "NODE_GET_FREE_MEMORY").freeMem == 500 * MIB + 7
    assert at_once(client, "NODE_GET_CELLS_FREE_MEMORY", startCell=0, maxcells=1).cells == [7]


def test_a_hole_in_the_cell_numbers_has_no_memory() -> None:
    client = Client(cluster(node("n1", 0, N1), node("n3", 2, N2)))
    assert at_once(client, "NODE_GET_CELLS_FREE_MEMORY", startCell=0, maxcells=3).cells == [
        100 * MIB,
        0,
        300 * MIB,
    ]


def test_cells_outside_the_range_are_refused_as_libvirt_does() -> None:
    client = three()
    with pytest.raises(ClusterError, match=r"^start cell 3 out of range \(0-2\)$"):
        at_once(client, "NODE_GET_CELLS_FREE_MEMORY", startCell=3, maxcells=1)
    with pytest.raises(InvalidArgument, match="startCell"):
        at_once(client, "NODE_GET_CELLS_FREE_MEMORY", startCell=-1, maxcells=1)
    with pytest.raises(InvalidArgument, match="maxCells"):
        at_once(client, "NODE_GET_CELLS_FREE_MEMORY", startCell=0, maxcells=0)
    with pytest.raises(ClusterError, match="1025"):
        at_once(client, "NODE_GET_CELLS_FREE_MEMORY", startCell=0, maxcells=1025)


def test_memory_statistics_tell_their_number_first() -> None:
    client = three()
    assert at_once(client, "NODE_GET_MEMORY_STATS", nparams=0, cellNum=-1, flags=0).nparams == 4
    found = at_once(client, "NODE_GET_MEMORY_STATS", nparams=4, cellNum=-1, flags=0)
    assert {param.field: param.value for param in found.params} == {
        "total": 4942028 + 8388608 + 9884056,
        "free": 6000,
        "buffers": 15,
        "cached": 18,
    }
    found = at_once(client, "NODE_GET_MEMORY_STATS", nparams=2, cellNum=1, flags=0)
    assert {param.field: param.value for param in found.params} == {"total": 8388608, "free": 200 * 1024}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"nparams": 4, "cellNum": 3, "flags": 0}, "less than or equal to 2"),
        ({"nparams": 4, "cellNum": -2, "flags": 0}, "only accepts -1"),
        ({"nparams": 3, "cellNum": -1, "flags": 0}, "must be 4"),
        ({"nparams": 17, "cellNum": -1, "flags": 0}, "too large"),
        ({"nparams": 4, "cellNum": -1, "flags": 1}, "unsupported flags"),
    ],
)
def test_wrong_arguments_of_memory_statistics_are_refused(fields: dict[str, int], text: str) -> None:
    with pytest.raises(ClusterError, match=text):
        at_once(three(), "NODE_GET_MEMORY_STATS", **fields)


async def test_statistics_of_a_cpu_come_from_its_node_by_its_own_number() -> None:
    one = messages.RemoteNodeGetCpuStatsRet(
        params=[messages.RemoteNodeGetCpuStats(field="user", value=5)], nparams=1
    )
    client = three(NODE_GET_CPU_STATS={"n2": one})
    found = await ask(client, "NODE_GET_CPU_STATS", cpuNum=4, nparams=1, flags=0)
    assert found.params[0].value == 5
    assert client.nodes.asked == [
        ("n2", "NODE_GET_CPU_STATS", messages.RemoteNodeGetCpuStatsArgs(cpuNum=2, nparams=1, flags=0))
    ]


def cpu_stats(**values: int) -> messages.RemoteNodeGetCpuStatsRet:
    params = [messages.RemoteNodeGetCpuStats(field=name, value=value) for name, value in values.items()]
    return messages.RemoteNodeGetCpuStatsRet(params=params, nparams=len(params))


async def test_statistics_of_all_cpus_are_the_nodes_own_of_this_moment_summed() -> None:
    client = three(
        NODE_GET_CPU_STATS={
            "n1": cpu_stats(kernel=100, user=1, idle=1, iowait=1),
            "n2": cpu_stats(kernel=200, user=1, idle=1, iowait=1),
            "n3": libvirt_error(38, "cannot open /proc/stat"),
        }
    )
    assert at_once(client, "NODE_GET_CPU_STATS", cpuNum=-1, nparams=0, flags=0).nparams == 4
    found = await ask(client, "NODE_GET_CPU_STATS", cpuNum=-1, nparams=4, flags=0)
    assert {param.field: param.value for param in found.params} == {
        "kernel": 312,
        "user": 22,
        "idle": 32,
        "iowait": 4,
    }


@pytest.mark.parametrize(("number", "error"), [(10, WireError), (-2, InvalidArgument)])
def test_a_cpu_that_no_node_has_is_refused(number: int, error: type[Exception]) -> None:
    with pytest.raises(error, match="cpuNum"):
        at_once(three(), "NODE_GET_CPU_STATS", cpuNum=number, nparams=4, flags=0)


async def test_a_cpu_of_a_lost_node_fails_naming_the_node() -> None:
    client = Client(cluster(node("n1", 0, N1), node("n2", 1, N2, Link.LOST)))
    with pytest.raises(NodeUnreachable, match="n2"):
        await ask(client, "NODE_GET_CPU_STATS", cpuNum=3, nparams=4, flags=0)


async def test_free_pages_of_a_cell_are_those_of_all_cells_of_its_node() -> None:
    told = {
        "n1": messages.RemoteNodeGetFreePagesRet(counts=[10, 1]),
        "n2": messages.RemoteNodeGetFreePagesRet(counts=[20, 2]),
        "n3": messages.RemoteNodeGetFreePagesRet(counts=[30, 3, 300, 30]),
    }
    client = three(NODE_GET_FREE_PAGES=told)
    found = await ask(client, "NODE_GET_FREE_PAGES", pages=[4, 2048], startCell=1, cellCount=9, flags=0)
    assert found.counts == [20, 2, 330, 33]
    assert client.nodes.asked[-1][2].cellCount == 2
    found = await ask(client, "NODE_GET_FREE_PAGES", pages=[4, 2048], startCell=-1, cellCount=2, flags=0)
    assert found.counts == [360, 36, 10, 1]
    with pytest.raises(ClusterError, match="out of range"):
        await ask(client, "NODE_GET_FREE_PAGES", pages=[4], startCell=3, cellCount=1, flags=0)
    with pytest.raises(InvalidArgument, match="cellCount"):
        await ask(client, "NODE_GET_FREE_PAGES", pages=[4], startCell=0, cellCount=0, flags=0)


async def test_pages_are_allocated_on_the_node_of_the_cell() -> None:
    client = three(NODE_ALLOC_PAGES={"n2": messages.RemoteNodeAllocPagesRet(ret=1)})
    found = await ask(
        client, "NODE_ALLOC_PAGES", pageSizes=[2048], pageCounts=[8], startCell=1, cellCount=1, flags=1
    )
    assert found.ret == 1
    (name, _, args), *others = client.nodes.asked
    assert (name, others) == ("n2", [])
    assert (args.startCell, args.cellCount, args.flags, args.pageCounts) == (-1, 1, 1, [8])


async def test_max_vcpus_is_the_least_and_is_kept() -> None:
    told = {
        f"n{n}": messages.RemoteConnectGetMaxVcpusRet(max_vcpus=count)
        for n, count in ((1, 255), (2, 16), (3, 288))
    }
    client = three(CONNECT_GET_MAX_VCPUS=told)
    assert (await ask(client, "CONNECT_GET_MAX_VCPUS", type="qemu")).max_vcpus == 16
    assert at_once(client, "CONNECT_GET_MAX_VCPUS", type="qemu").max_vcpus == 16
    assert len(client.nodes.asked) == 3


async def test_cpu_model_names_are_those_all_know() -> None:
    def names(*models: str) -> messages.RemoteConnectGetCpuModelNamesRet:
        return messages.RemoteConnectGetCpuModelNamesRet(models=list(models), ret=len(models))

    client = three(
        CONNECT_GET_CPU_MODEL_NAMES={"n1": names("a", "b", "c"), "n2": names("c", "b"), "n3": names("b", "c")}
    )
    found = await ask(client, "CONNECT_GET_CPU_MODEL_NAMES", arch="x86_64", need_results=1, flags=0)
    assert (found.models, found.ret) == (["b", "c"], 2)
    found = await ask(client, "CONNECT_GET_CPU_MODEL_NAMES", arch="x86_64", need_results=0, flags=0)
    assert (found.models, found.ret) == ([], 2)


@pytest.mark.parametrize(("results", "worst"), [((2, 1, 2), 1), ((2, 0, 1), 0), ((2, 2, 2), 2)])
async def test_comparing_a_cpu_gives_the_worst_result(results: tuple[int, ...], worst: int) -> None:
    told = {
        f"n{n + 1}": messages.RemoteConnectCompareCpuRet(result=result) for n, result in enumerate(results)
    }
    client = three(CONNECT_COMPARE_CPU=told, CONNECT_COMPARE_HYPERVISOR_CPU=told)
    assert (await ask(client, "CONNECT_COMPARE_CPU", xml="<cpu/>", flags=0)).result == worst
    fields = {"emulator": None, "arch": None, "machine": None, "virttype": None}
    found = await ask(client, "CONNECT_COMPARE_HYPERVISOR_CPU", **fields, xmlCPU="<cpu/>", flags=0)
    assert found.result == worst


async def test_a_nodes_own_error_is_passed_on() -> None:
    error = libvirt_error(91, "the CPU is incompatible")
    ok = messages.RemoteConnectCompareCpuRet(result=2)
    client = three(CONNECT_COMPARE_CPU={"n1": ok, "n2": error, "n3": ok})
    with pytest.raises(NodeError) as caught:
        await ask(client, "CONNECT_COMPARE_CPU", xml="<cpu/>", flags=1)
    assert caught.value.payload == error


async def test_a_node_out_of_reach_does_not_hold_up_what_the_others_can_say() -> None:
    client = Client(
        cluster(node("n1", 0, N1, Link.LOST), node("n2", 1, N2)),
        {"CONNECT_BASELINE_CPU": {"n2": messages.RemoteConnectBaselineCpuRet(cpu="<cpu/>")}},
    )
    assert (await ask(client, "CONNECT_BASELINE_CPU", xmlCPUs=["<cpu/>"], flags=0)).cpu == "<cpu/>"


def caps(text: str) -> messages.RemoteConnectGetDomainCapabilitiesRet:
    return messages.RemoteConnectGetDomainCapabilitiesRet(capabilities=text)


NOTHING: dict[str, Any] = {"emulatorbin": None, "arch": None, "machine": None, "virttype": None, "flags": 0}


async def test_domain_capabilities_are_merged_and_kept() -> None:
    client = three(CONNECT_GET_DOMAIN_CAPABILITIES={"n1": caps(QEMU), "n2": caps(QEMU), "n3": caps(QEMU)})
    found = await ask(client, "CONNECT_GET_DOMAIN_CAPABILITIES", **NOTHING)
    assert parse(found.capabilities).findtext("machine") == "pc-i440fx-7.2"
    assert at_once(client, "CONNECT_GET_DOMAIN_CAPABILITIES", **NOTHING) == found
    assert len(client.nodes.asked) == 3
    client.model.put_node(node("n3", 2, N3, Link.LOST))
    await ask(client, "CONNECT_GET_DOMAIN_CAPABILITIES", **NOTHING)
    assert len(client.nodes.asked) == 5


async def test_nodes_with_different_defaults_are_asked_the_same_question() -> None:
    baseline = messages.RemoteConnectBaselineHypervisorCpuRet(cpu="<cpu><model>qemu64</model></cpu>")
    client = three(
        CONNECT_GET_DOMAIN_CAPABILITIES={"n1": caps(KVM), "n2": caps(OLDER), "n3": caps(QEMU)},
        CONNECT_BASELINE_HYPERVISOR_CPU={"n1": baseline},
    )
    found = parse((await ask(client, "CONNECT_GET_DOMAIN_CAPABILITIES", **NOTHING)).capabilities)
    again = [args for _, name, args in client.nodes.asked[3:6] if name == "CONNECT_GET_DOMAIN_CAPABILITIES"]
    assert {(args.machine, args.virttype) for args in again} == {("pc-i440fx-7.1", "qemu")}
    assert found.findtext("cpu/mode[@name='host-model']/model") == "qemu64"


async def test_a_node_without_the_emulator_does_not_count() -> None:
    error = libvirt_error(38, "Cannot check QEMU binary")
    client = three(CONNECT_GET_DOMAIN_CAPABILITIES={"n1": error, "n2": caps(QEMU), "n3": caps(QEMU)})
    assert (await ask(client, "CONNECT_GET_DOMAIN_CAPABILITIES", **NOTHING)).capabilities
    client = three(CONNECT_GET_DOMAIN_CAPABILITIES={"n1": error, "n2": error, "n3": error})
    with pytest.raises(NodeError):
        await ask(client, "CONNECT_GET_DOMAIN_CAPABILITIES", **NOTHING)


async def test_the_first_who_asks_for_capabilities_of_unlike_nodes_waits_for_the_baseline() -> None:
    cpu = "<cpu mode='custom'><model>qemu64</model><feature policy='require' name='aes'/></cpu>"
    client = three(CONNECT_BASELINE_CPU={"n1": messages.RemoteConnectBaselineCpuRet(cpu=cpu)})
    found = await ask(client, "CONNECT_GET_CAPABILITIES")
    assert parse(found.capabilities).findtext("host/cpu/model") == "qemu64"
    assert at_once(client, "CONNECT_GET_CAPABILITIES") == found


async def test_capabilities_stay_with_the_first_cpu_when_no_baseline_can_be_had() -> None:
    refused = libvirt_error(1, "no suitable CPU")
    client = three(CONNECT_BASELINE_CPU=dict.fromkeys(("n1", "n2", "n3"), refused))
    await client.host.refresh(client.world)
    found = at_once(client, "CONNECT_GET_CAPABILITIES")
    assert parse(found.capabilities).findtext("host/cpu/model") == "kvm64"


async def test_a_view_of_one_node_relays_everything() -> None:
    own = messages.RemoteConnectGetHostnameRet(hostname="n2")
    model = cluster(node("n1", 0, N1), node("n2", 1, N2))
    client = Client(model, {"CONNECT_GET_HOSTNAME": {"n2": own}}, view="n2")
    assert (await ask(client, "CONNECT_GET_HOSTNAME")).hostname == "n2"
    assert client.nodes.asked == [("n2", "CONNECT_GET_HOSTNAME", None)]


def test_what_belongs_to_a_node_says_how_to_ask_for_it() -> None:
    with pytest.raises(Unsupported, match=r"\?node=NAME"):
        at_once(three(), "NODE_GET_SEV_INFO", nparams=0, flags=0)


def test_every_cpu_has_one_place() -> None:
    nodes = [node("n1", 0, N1), node("n2", 1, N2), node("n3", 5, N3)]
    found = arrange(nodes, {each.name: read_facts(each.host) for each in nodes})
    _, online, present = cpu_map(found)
    assert (online, present) == (9, 10)
    places = [locate(found, cpu) for cpu in range(present)]
    assert [(cell.node.name, number) for cell, number in filter(None, places)] == [
        *[("n1", n) for n in range(2)],
        *[("n2", n) for n in range(4)],
        *[("n3", n) for n in range(4)],
    ]
    assert locate(found, present) is None


def test_a_node_that_tells_no_topology_has_as_many_cpus_as_it_says() -> None:
    plain = node("n1", 0, Host(memory=1024, cpus=3, mhz=1))
    found = arrange([plain], {"n1": read_facts(plain.host)})
    assert cpu_map(found) == (b"\x07", 3, 3)
    info = node_info(found)
    assert (info.sockets, info.cores, info.threads) == (1, 3, 1)
