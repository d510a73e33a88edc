"""Merging of the nodes' capabilities: rules with hypothesis, real documents, libvirt's own schema."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from clusterhost.frontend.libvirt.hostview import capabilities, guests, hostcpu, sysinfo
from clusterhost.frontend.libvirt.hostview.cells import Cell, numbers
from clusterhost.frontend.libvirt.hostview.trees import Element, canonical, make, parse, write
from clusterhost.model.cellmap import format_set
from clusterhost.model.errors import InvalidXml
from clusterhost.model.node import Admin, Host, Link
from tests.unit.hostview_support import N1, N2, N3, cells, node

SCHEMAS = Path("/usr/share/libvirt/schemas")
CLUSTER_UUID = "c1000000-0000-4000-8000-000000000001"


@cache
def schema(name: str) -> etree.RelaxNG:
    """One of libvirt's own schemas."""
    path = SCHEMAS / name
    if not path.exists():
        pytest.skip(f"libvirt's schema {name} is not installed")
    return etree.RelaxNG(etree.parse(str(path)))


def invalid(name: str, document: Element) -> str:
    """What the schema says against a document, "" for nothing.  Its pattern for feature names, as libxml2
    reads it, lets no dot through: a node's own sse4.1 fails, so dots are taken out first."""
    checked = deepcopy(document)
    for feature in checked.iter("feature"):
        feature.set("name", (feature.get("name") or "").replace(".", ""))
    rng = schema(name)
    return "" if rng.validate(checked) else str(rng.error_log.filter_from_errors())


def merged(*hosts: Host, baseline: Element | None = None) -> Element:
    """The document of nodes n1, n2 ... in cells 0, 1 ..."""
    found = cells(*(node(f"n{cell + 1}", cell, host) for cell, host in enumerate(hosts)))
    return parse(capabilities.merge(CLUSTER_UUID, found, baseline))


def values(root: Element, path: str, name: str) -> list[str | None]:
    """An attribute of all elements at path."""
    return [element.get(name) for element in root.iterfind(path)]


def texts(root: Element, path: str) -> list[str]:
    """The texts at path."""
    return [element.text or "" for element in root.iterfind(path)]


BASELINE = parse(
    "<cpu mode='custom' match='exact'><model fallback='forbid'>qemu64</model><vendor>AMD</vendor>"
    "<feature policy='require' name='aes'/><feature policy='disable' name='svm'/></cpu>"
)


@pytest.mark.parametrize("hosts", [(N1,), (N1, N1), (N1, N2), (N2, N1), (N1, N2, N3), (N3, N1), (N3,)])
def test_every_merged_document_is_valid_by_libvirts_schema(hosts: tuple[Host, ...]) -> None:
    assert invalid("capability.rng", merged(*hosts, baseline=BASELINE)) == ""


def test_the_schema_finds_what_is_wrong() -> None:
    document = merged(N1, N2)
    document.append(make("surprise"))
    assert invalid("capability.rng", document) != ""


def test_a_lost_node_and_one_without_a_topology_still_make_a_valid_document() -> None:
    bare = replace(
        N1, capabilities="<capabilities><host><cpu><arch>x86_64</arch></cpu></host></capabilities>"
    )
    found = cells(node("n1", 0, N1), node("n2", 1, N2, Link.LOST), node("n3", 2, bare))
    document = parse(capabilities.merge(CLUSTER_UUID, found))
    assert invalid("capability.rng", document) == ""
    assert texts(document, "host/topology/cells/cell/memory") == ["4942028", "0", "4942028"]


def test_one_node_alone_is_itself_but_for_uuid_and_power() -> None:
    own, document = parse(N1.capabilities), merged(N1)
    for root in (own, document):
        uuid = root.find("host/uuid")
        assert uuid is not None
        uuid.text = ""
    assert canonical(document) == canonical(own)


def test_the_uuid_is_the_clusters() -> None:
    assert merged(N1, N2).findtext("host/uuid") == CLUSTER_UUID


def test_each_node_is_a_cell_and_cpus_are_numbered_cell_by_cell() -> None:
    document = merged(N1, N2, N3)
    found = document.findall("host/topology/cells/cell")
    assert [cell.get("id") for cell in found] == ["0", "1", "2"]
    assert [values(cell, "cpus/cpu", "id") for cell in found] == [
        ["0", "1"],
        ["2", "3", "4", "5"],
        ["6", "7", "8", "9"],
    ]
    assert [cell.findtext("memory") for cell in found] == ["4942028", "8388608", "9884056"]
    assert values(found[2], "cpus/cpu", "siblings") == ["6", "7", "8", None]
    assert values(found[2], "cpus/cpu", "socket_id") == ["2", "2", "3", None]


def test_pages_of_a_nodes_own_cells_are_summed() -> None:
    cell = merged(N1, N3).findall("host/topology/cells/cell")[1]
    assert [(page.get("size"), page.text) for page in cell.iterfind("pages")] == [
        ("4", "2471014"),
        ("2048", "0"),
        ("1048576", "0"),
    ]


def test_memory_of_another_cell_is_unreachable() -> None:
    cell = merged(N1, N2).findall("host/topology/cells/cell")[1]
    assert [(s.get("id"), s.get("value")) for s in cell.iterfind("distances/sibling")] == [
        ("0", "255"),
        ("1", "10"),
    ]


def test_cells_keep_their_numbers_when_one_is_missing() -> None:
    document = parse(capabilities.merge(CLUSTER_UUID, cells(node("n1", 0, N1), node("n9", 7, N2))))
    assert values(document, "host/topology/cells/cell", "id") == ["0", "7"]


def test_features_of_one_cpu_model_are_the_common_ones() -> None:
    cpu = merged(N1, N2).find("host/cpu")
    assert cpu is not None
    names = values(cpu, "feature", "name")
    assert "aes" in names
    assert "avx512f" not in names
    assert "ibpb" not in names
    assert cpu.find("microcode") is None
    assert cpu.find("topology") is None
    assert values(cpu, "maxphysaddr", "bits") == ["40"]
    assert values(cpu, "pages", "size") == ["4", "2048"]


def test_different_models_show_the_first_until_a_baseline_is_known() -> None:
    assert merged(N1, N3).findtext("host/cpu/model") == "kvm64"
    cpu = merged(N1, N3, baseline=BASELINE).find("host/cpu")
    assert cpu is not None
    assert cpu.findtext("model") == "qemu64"
    assert values(cpu, "feature", "name") == ["aes"]


def test_the_baseline_is_asked_with_one_cpu_a_model() -> None:
    request = hostcpu.baseline_request(
        capabilities.host_cpus(cells(node("a", 0, N1), node("b", 1, N2), node("c", 2, N3)))
    )
    assert [cpu.findtext("model") for cpu in request] == ["kvm64", "EPYC"]
    assert "avx512f" not in values(request[0], "feature", "name")
    assert hostcpu.baseline_request(capabilities.host_cpus(cells(node("a", 0, N1), node("b", 1, N2)))) == []


def test_machines_are_common_and_an_alias_of_different_machines_loses_its_canonical_name() -> None:
    document = merged(N1, N2)
    arch = document.find("guest/arch[@name='x86_64']")
    assert arch is not None
    names = texts(arch, "machine")
    assert "pc-i440fx-7.2" not in names
    machines = {machine.text: machine for machine in arch.iterfind("machine")}
    assert machines["pc"].get("canonical") is None
    assert machines["pc-q35-5.2"].get("maxCpus") == "100"
    assert machines["pc-q35-5.2"].get("deprecated") == "yes"
    assert values(arch, "domain", "type") == ["qemu", "kvm"]


def test_what_one_node_lacks_goes() -> None:
    document = merged(N1, N3)
    assert values(document, "guest/arch", "name") == ["x86_64"]
    assert values(document, "guest/arch/domain", "type") == ["qemu"]
    assert document.find("guest/arch/emulator") is None
    assert values(document, "guest/features/acpi", "default") == ["off"]
    assert document.find("guest/features/hap") is None
    assert values(document, "host/iommu", "support") == ["no"]
    assert texts(document, "host/secmodel/model") == ["none"]
    assert texts(merged(N1, N2), "host/migration_features/uri_transports/uri_transport") == ["tcp"]


def test_security_models_keep_the_labels_on_which_all_agree() -> None:
    document = merged(N1, N2)
    assert texts(document, "host/secmodel/model") == ["none", "dac"]
    assert document.find("host/secmodel/baselabel") is None
    assert capabilities.first_security_model(cells(node("n1", 0, N1), node("n2", 1, N2))) == ("none", "0")


def test_cache_banks_are_renumbered() -> None:
    banks = merged(N1, N2).findall("host/cache/bank")
    assert [(bank.get("id"), bank.get("cpus")) for bank in banks] == [("0", "0-1"), ("1", "2-5")]


def test_a_disabled_node_does_not_lower_what_the_cluster_can_do_but_keeps_its_cell() -> None:
    found = cells(node("n1", 0, N1), node("n2", 1, N3, admin=Admin.DISABLED))
    document = parse(capabilities.merge(CLUSTER_UUID, found))
    assert values(document, "guest/arch", "name") == ["i686", "x86_64"]
    assert values(document, "host/topology/cells/cell", "id") == ["0", "1"]


def test_a_node_with_an_unreadable_document_does_not_spoil_the_others() -> None:
    document = merged(N1, replace(N2, capabilities="<capabilities><host>"))
    assert values(document, "guest/arch", "name") == ["i686", "x86_64"]
    cell = document.findall("host/topology/cells/cell")[1]
    assert values(cell, "cpus/cpu", "id") == ["2", "3", "4", "5"]


def test_what_newer_libvirts_add_is_shown_when_all_say_the_same() -> None:
    text = N1.capabilities.replace("<iommu", "<newthing/><iommu")
    assert (
        merged(replace(N1, capabilities=text), replace(N1, capabilities=text)).find("host/newthing")
        is not None
    )
    assert merged(replace(N1, capabilities=text), N1).find("host/newthing") is None


def test_a_document_type_is_refused() -> None:
    with pytest.raises(InvalidXml):
        parse("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>")


def test_written_text_is_read_back_the_same() -> None:
    awkward = make("a", "1 < 2 & 'three'", b="\"x\" 'y' <")
    assert canonical(parse(write(awkward))) == canonical(awkward)


def test_sysinfo_names_the_cluster_and_its_nodes() -> None:
    text = sysinfo.build(CLUSTER_UUID, "demo", cells(node("n1", 0, N1), node("n2", 1, N2)))
    root = parse(text)
    assert root.findtext("system/entry[@name='uuid']") == CLUSTER_UUID
    assert texts(root, "baseBoard/entry[@name='product']") == ["n1", "n2"]


@given(st.sets(st.integers(0, 300)))
def test_a_cpuset_is_read_back_the_same(wanted: set[int]) -> None:
    assert set(numbers(format_set(wanted))) == wanted


# ---- rules ----

MACHINES = ("pc", "q35", "pc-7.1", "pc-7.2", "virt", "microvm")


@st.composite
def guest_lists(draw: st.DrawFn) -> list[Element]:
    """The guests of one node."""
    made = []
    for arch in draw(st.lists(st.sampled_from(("i686", "x86_64", "aarch64")), unique=True)):
        element = make("arch", name=arch)
        element.append(make("wordsize", "32" if arch == "i686" else "64"))
        if draw(st.booleans()):
            element.append(
                make("emulator", draw(st.sampled_from(("/usr/bin/qemu", "/usr/libexec/qemu-kvm"))))
            )
        for machine in draw(st.lists(st.sampled_from(MACHINES), unique=True)):
            element.append(make("machine", machine, maxCpus=draw(st.sampled_from((8, 255)))))
        for kind in draw(st.lists(st.sampled_from(("qemu", "kvm")), unique=True, min_size=1)):
            domain = make("domain", type=kind)
            for machine in draw(st.lists(st.sampled_from(MACHINES), unique=True, max_size=2)):
                domain.append(make("machine", machine))
            element.append(domain)
        guest = make("guest")
        guest.append(make("os_type", "hvm"))
        guest.append(element)
        features = make("features")
        for name in draw(st.lists(st.sampled_from(("pae", "cpuselection", "deviceboot")), unique=True)):
            features.append(make(name))
        features.append(make("acpi", default=draw(st.sampled_from(("on", "off"))), toggle="yes"))
        guest.append(features)
        made.append(guest)
    return made


def unordered(element: Element) -> object:
    """Content without regard to the order of children."""
    children = sorted((unordered(child) for child in element), key=repr)
    return str(element.tag), sorted(element.attrib.items()), element.text or "", children


def all_unordered(elements: list[Element]) -> list[object]:
    return sorted((unordered(element) for element in elements), key=repr)


@given(guest_lists())
def test_merging_a_node_with_itself_changes_nothing(one: list[Element]) -> None:
    once = guests.merge([one])
    assert all_unordered(guests.merge([one, one])) == all_unordered(once) == all_unordered(one)


@settings(max_examples=60)
@given(st.lists(guest_lists(), min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_nodes_changes_no_more_than_the_order(lists: list[list[Element]], random) -> None:  # type: ignore[no-untyped-def]
    shuffled = list(lists)
    random.shuffle(shuffled)
    assert all_unordered(guests.merge(lists)) == all_unordered(guests.merge(shuffled))


@settings(max_examples=60)
@given(st.lists(guest_lists(), min_size=1, max_size=4))
def test_what_is_shown_is_on_every_node(lists: list[list[Element]]) -> None:
    for guest in guests.merge(lists):
        arch = guest.find("arch")
        assert arch is not None
        for own in lists:
            same_arch = [
                found
                for each in own
                for found in each.iterfind("arch")
                if found.get("name") == arch.get("name")
            ]
            assert set(texts(arch, "machine")) <= set(texts(same_arch[0], "machine"))
            assert set(values(arch, "domain", "type")) <= set(values(same_arch[0], "domain", "type"))


@given(st.lists(st.sets(st.sampled_from("abcdefgh")), min_size=1, max_size=4))
def test_features_of_a_merged_cpu_are_the_intersection(sets: list[set[str]]) -> None:
    cpus = []
    for names in sets:
        cpu = make("cpu")
        cpu.append(make("model", "m"))
        cpu.extend(make("feature", name=name) for name in sorted(names))
        cpus.append(cpu)
    assert set(values(hostcpu.merge(cpus), "feature", "name")) == set.intersection(*sets)


def test_cells_hold_nodes_in_their_order() -> None:
    found: list[Cell] = cells(node("b", 1, N2), node("a", 0, N1))
    assert [(cell.node.name, cell.first_cpu, cell.first_socket) for cell in found] == [
        ("a", 0, 0),
        ("b", 2, 1),
    ]
