"""Merging of domain capabilities: real documents, libvirt's schema, and rules with hypothesis."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterhost.frontend.libvirt.hostview import domaincaps
from clusterhost.frontend.libvirt.hostview.domaincaps import Question
from clusterhost.frontend.libvirt.hostview.trees import Element, canonical, make, parse
from tests.unit.hostview_support import DATA
from tests.unit.test_hostview_capabilities import invalid, texts, values

KVM, QEMU, OLDER = (
    (DATA / f"domain-capabilities-{name}.xml").read_text() for name in ("kvm", "qemu", "older")
)


def merged(*documents: str, baseline: str | None = None) -> Element:
    return domaincaps.merge(
        [parse(text) for text in documents], None if baseline is None else parse(baseline)
    )


@pytest.mark.parametrize("documents", [(KVM,), (QEMU, OLDER), (OLDER, QEMU), (KVM, QEMU), (KVM, QEMU, OLDER)])
def test_every_merged_document_is_valid_by_libvirts_schema(documents: tuple[str, ...]) -> None:
    assert invalid("domaincaps.rng", merged(*documents)) == ""


@pytest.mark.parametrize("document", [KVM, QEMU, OLDER])
def test_merging_a_node_with_itself_changes_nothing(document: str) -> None:
    assert canonical(merged(document)) == canonical(parse(document))
    assert canonical(merged(document, document, document)) == canonical(parse(document))


def test_only_what_all_nodes_have_is_left() -> None:
    document = merged(QEMU, OLDER)
    assert document.findtext("machine") == "pc-i440fx-7.1"
    assert values(document, "vcpu", "max") == ["240"]
    assert values(document, "iothreads", "supported") == ["no"]
    assert texts(document, "os/loader/enum[@name='type']/value") == ["rom"]
    assert values(document, "devices/tpm", "supported") == ["no"]
    assert document.find("devices/tpm/enum") is None
    assert "vmvga" not in texts(document, "devices/video/enum/value")
    assert "vga" in texts(document, "devices/video/enum/value")


def test_cpu_models_are_usable_where_all_can_use_them() -> None:
    mode = merged(QEMU, OLDER).find("cpu/mode[@name='custom']")
    assert mode is not None
    models = {model.text: model for model in mode.iterfind("model")}
    assert "486" not in models
    assert models["kvm64"].get("usable") == "no"
    assert models["pentium3"].get("deprecated") == "yes"
    assert models["pentium3"].get("usable") == "yes"


def test_host_models_of_one_name_keep_common_features_and_all_that_is_disabled() -> None:
    mode = merged(QEMU, OLDER).find("cpu/mode[@name='host-model']")
    assert mode is not None
    required = values(mode, "feature[@policy='require']", "name")
    assert "acpi" not in required
    assert "npt" not in required
    assert "hypervisor" in required
    assert {"vme", "npt"} <= set(values(mode, "feature[@policy='disable']", "name"))
    assert domaincaps.host_models([parse(QEMU), parse(OLDER)]) == []


def test_host_models_of_different_names_need_a_baseline() -> None:
    request = domaincaps.host_models([parse(KVM), parse(QEMU)])
    assert [cpu.findtext("model") for cpu in request] == ["kvm64", "EPYC"]
    baseline = "<cpu mode='custom'><model>qemu64</model><feature policy='require' name='aes'/></cpu>"
    mode = merged(KVM, QEMU, baseline=baseline).find("cpu/mode[@name='host-model']")
    assert mode is not None
    assert mode.findtext("model") == "qemu64"
    assert values(mode, "feature", "name") == ["aes"]


def test_different_defaults_are_asked_again_with_what_all_have() -> None:
    asked = Question()
    assert domaincaps.pinned(asked, [parse(QEMU), parse(QEMU)]) is None
    assert domaincaps.pinned(asked, [parse(KVM), parse(OLDER)]) == Question(
        machine="pc-i440fx-7.1", virttype="qemu"
    )


def test_sev_with_different_bits_is_not_supported() -> None:
    def with_sev(bit: int, guests: int) -> str:
        bits = f"<cbitpos>{bit}</cbitpos><reducedPhysBits>1</reducedPhysBits>"
        sev = f"<sev supported='yes'>{bits}<maxGuests>{guests}</maxGuests></sev>"
        return QEMU.replace("<sev supported='no'/>", sev)

    assert merged(with_sev(47, 15), with_sev(47, 509)).findtext("features/sev/maxGuests") == "15"
    sev = merged(with_sev(47, 15), with_sev(51, 15)).find("features/sev")
    assert sev is not None
    assert sev.get("supported") == "no"
    assert len(sev) == 0


@given(st.lists(st.from_regex(r"pc-q35-[0-9]{1,2}\.[0-9]", fullmatch=True), min_size=2))
def test_machines_sort_by_their_numbers(names: list[str]) -> None:
    ordered = sorted(names, key=domaincaps.natural)
    versions = [tuple(int(part) for part in name.removeprefix("pc-q35-").split(".")) for name in ordered]
    assert versions == sorted(versions)


def enum_document(enums: dict[str, set[str]], supported: bool) -> Element:
    """A document with one device."""
    root = make("domainCapabilities")
    root.append(make("path", "/usr/bin/qemu"))
    disk = make("disk", supported="yes" if supported else "no")
    for name in sorted(enums) if supported else ():
        enum = make("enum", name=name)
        enum.extend(make("value", value) for value in sorted(enums[name]))
        disk.append(enum)
    devices = make("devices")
    devices.append(disk)
    root.append(devices)
    return root


ENUMS = st.dictionaries(st.sampled_from(("bus", "model")), st.sets(st.sampled_from("abcdef")))


@given(st.lists(st.tuples(ENUMS, st.booleans()), min_size=1, max_size=4))
def test_enums_are_intersections_and_the_order_of_nodes_does_not_matter(
    nodes: list[tuple[dict[str, set[str]], bool]],
) -> None:
    documents = [enum_document(enums, supported) for enums, supported in nodes]
    document = domaincaps.merge(documents)
    assert canonical(document) == canonical(domaincaps.merge(documents[::-1]))
    everywhere = all(supported for _, supported in nodes)
    assert values(document, "devices/disk", "supported") == ["yes" if everywhere else "no"]
    if everywhere:
        names = set.intersection(*(set(enums) for enums, _ in nodes))
        for name in names:
            shown = set(texts(document, f"devices/disk/enum[@name='{name}']/value"))
            assert shown == set.intersection(*(enums[name] for enums, _ in nodes))
        assert set(values(document, "devices/disk/enum", "name")) == names
