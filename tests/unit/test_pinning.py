"""A domain's XML between the cluster's numbers and a node's: shown, asked for, placed, carried to another node."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from clusterhost.model import pinning, pinxml
from clusterhost.model.cellmap import CellMap, Place, format_set
from clusterhost.model.errors import ConfigUnsupported
from tests.unit.test_cellmap import THREE, cell_map

HEAD = "<domain type='kvm'>\n  <name>web</name>\n  "
TAIL = "\n  <devices>\n    <disk/>\n  </devices>\n</domain>\n"


def domain(inside: str, head: str = HEAD) -> bytes:
    return (head + inside + TAIL).encode()


def pins(vcpu: str = "", pin0: str = "", emulator: str = "", nodeset: str = "", mode: str = "strict") -> str:
    """The elements, as libvirt writes them."""
    out = [f"<vcpu placement='static' cpuset='{vcpu}'>2</vcpu>" if vcpu else "<vcpu>2</vcpu>"]
    tune = f"    <vcpupin vcpu='0' cpuset='{pin0}'/>\n" if pin0 else ""
    tune += f"    <emulatorpin cpuset='{emulator}'/>\n" if emulator else ""
    if tune:
        out.append(f"<cputune>\n{tune}  </cputune>")
    if nodeset:
        out.append(f"<numatune>\n    <memory mode='{mode}' nodeset='{nodeset}'/>\n  </numatune>")
    return "\n  ".join(out)


def at(node: str, xml: bytes, cells: CellMap = THREE, old: bytes | None = None, holder: str = "") -> bytes:
    """What the node gets of a client's XML."""
    asked = pinning.asked(xml, cells, old, holder)
    assert asked is not None
    return pinning.placed(asked, cells, node)


def numbers(xml: bytes) -> dict[str, str]:
    document = pinxml.read(xml)
    assert document is not None
    return {key: format_set(pin.numbers or ()) for key, pin in document.pins.items()}


def test_xml_without_pinning_is_not_touched() -> None:
    plain = domain("<vcpu>1</vcpu>")
    assert pinning.shown(plain, THREE, "n2") is plain
    assert pinning.asked(plain, THREE) is None
    assert pinning.fitted(plain, THREE, "n1", "n2").xml is plain


def test_what_libvirt_writes_is_looked_at_up_to_the_devices() -> None:
    for text in (
        pins(vcpu="1"),
        pins(nodeset="0"),
        f"<metadata><a:b xmlns:a='{pinxml.NAMESPACE}'/></metadata>",
    ):
        assert not pinxml.libvirt_says_nothing(domain(text))
    assert pinxml.libvirt_says_nothing(domain("<vcpu>1</vcpu>").replace(b"<disk/>", b"<disk cpuset='1'/>"))
    assert not pinxml.libvirt_says_nothing(b"<domain><vcpu cpuset='1'/></domain>")


def test_own_numbers_are_shifted_and_nothing_else_changes() -> None:
    text = pins(pin0="1", emulator="0-1")
    assert pinning.shown(domain(text), THREE, "n3") == domain(pins(pin0="7", emulator="0-7"))


def test_cpus_of_one_node_choose_it_and_become_its_numbers() -> None:
    asked = pinning.asked(domain(pins(pin0="3", emulator="2,5")), THREE)
    assert asked is not None
    assert asked.within == 2
    assert at("n2", domain(pins(pin0="3", emulator="2,5"))) == domain(pins(pin0="1", emulator="0,3"))


def test_whole_nodes_are_kept_in_the_metadata_and_shown_again() -> None:
    for text in (
        pins(vcpu="2-7"),
        pins(pin0="6-7", nodeset="2,4"),
        pins(vcpu="0-5", pin0="0-7", nodeset="0", mode="preferred"),
        "<metadata>\n    <a:x xmlns:a='urn:a'/>\n  </metadata>\n  " + pins(vcpu="0-1"),
        "<metadata/>\n  " + pins(vcpu="0-1"),
    ):
        given_xml = domain(text)
        stored = at("n1", given_xml)
        assert pinxml.NAMESPACE.encode() in stored
        etree.fromstring(stored)
        assert pinning.shown(stored, THREE, "n1") == given_xml


def test_each_place_in_the_xml_keeps_what_it_said() -> None:
    stored = at("n3", domain(pins(vcpu="2-7", pin0="6-7")))
    document = pinxml.read(stored)
    assert document is not None
    assert document.bound == {"vcpu": {2, 4}, "vcpupin:0": {4}}
    assert document.allowed() == {4}
    assert numbers(stored) == {"vcpu": "0-1", "vcpupin:0": "0-1"}


def test_preferred_memory_binds_nothing() -> None:
    document = pinxml.read(at("n1", domain(pins(nodeset="4", mode="preferred"))))
    assert document is not None
    assert document.allowed() is None
    assert document.wanted() == {4}


def test_a_definition_that_waits_elsewhere_has_the_numbers_of_its_node_to_be() -> None:
    stored = at("n1", domain(pins(pin0="5", emulator="0-7")))
    document = pinxml.read(stored)
    assert document is not None
    assert (document.numbers_of, document.wanted()) == (2, {2})
    assert numbers(stored) == {"vcpupin:0": "3", "emulatorpin": "0-3"}
    assert numbers(pinning.shown(stored, THREE, "n1")) == {"vcpupin:0": "5", "emulatorpin": "0-7"}
    moved = pinning.fitted(stored, THREE, "n1", "n2").xml
    assert pinxml.NAMESPACE.encode() not in moved
    assert numbers(moved) == {"vcpupin:0": "3", "emulatorpin": "0-3"}


def test_the_numbers_of_a_running_domain_are_its_nodes_whatever_waits() -> None:
    stored = at("n1", domain(pins(pin0="5")))
    live = stored.replace(b"<domain ", b"<domain id='4' ", 1).replace(b"'3'", b"'1'")
    assert numbers(pinning.shown(live, THREE, "n1")) == {"vcpupin:0": "1"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (pins(pin0="1-2"), "vcpupin:0: CPUs 1-2 are parts of several nodes.*n1 0-1, n2 2-5, n3 6-7"),
        (pins(pin0="0", emulator="6"), "the XML names CPUs of n1, n3, a domain runs on one node"),
        (pins(vcpu="0-1", nodeset="2"), "no node satisfies all of the XML: vcpu: n1; numatune: n2"),
        (pins(pin0="3", nodeset="0"), "the XML names CPUs of n2, which is not among.*numatune: n1"),
    ],
)
def test_what_no_single_node_can_honour_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigUnsupported, match=words):
        pinning.asked(domain(text), THREE)


def test_what_libvirt_refuses_is_left_to_it() -> None:
    for text in (pins(pin0="x"), pins(vcpu="3-1"), pins(nodeset="0,^0")):
        assert at("n2", domain(text)) == domain(text)
    for broken in (b"<domain><vcpu cpuset='1'>", b"", b"<!DOCTYPE a []><domain><vcpu cpuset='1'/></domain>"):
        assert pinning.asked(broken, THREE) is None
        assert pinning.shown(broken, THREE, "n1") == broken


def test_a_cell_that_nobody_has_is_kept_and_satisfied_by_no_node() -> None:
    stored = at("n1", domain(pins(nodeset="99")))
    document = pinxml.read(stored)
    assert document is not None
    assert document.allowed() == {99}
    assert numbers(pinning.shown(stored, THREE, "n1")) == {"numatune": "99"}


def test_what_a_client_leaves_as_it_was_shown_stays_as_it_was() -> None:
    big = CellMap((*THREE.places, Place("n4", 6, 8, 4, frozenset(range(4)), frozenset({0, 1}))))
    own = domain(pins(pin0="2", emulator="0-3", nodeset="1"))
    shown = pinning.shown(own, big, "n4")
    assert numbers(shown) == {"vcpupin:0": "10", "emulatorpin": "0-11", "numatune": "6"}
    assert at("n4", shown, big, own, "n4") == own
    edited = shown.replace(b"'10'", b"'11'")
    assert numbers(at("n4", edited, big, own, "n4")) == {
        "vcpupin:0": "3",
        "emulatorpin": "0-3",
        "numatune": "1",
    }


def test_other_words_in_our_namespace_are_the_users() -> None:
    theirs = (
        f"<metadata><p:placement xmlns:p='{pinxml.NAMESPACE}'><p:near to='db'/></p:placement></metadata>\n  "
    )
    stored = at("n1", domain(theirs + pins(nodeset="0")))
    assert b"<p:near to='db'/>" in stored
    assert b'<bind of="numatune" cells="0"/>' in stored
    assert b"<bind" not in pinning.shown(stored, THREE, "n1")
    assert b"<p:near to='db'/></p:placement>" in pinning.shown(stored, THREE, "n1")


def test_entities_quotes_and_blanks_do_not_mislead() -> None:
    text = '<vcpu\n cpuset = "2&#45;3" placement=\'a cpuset="9"\'>1</vcpu><!-- <vcpu cpuset="1"/> -->'
    assert b'cpuset = "0-1"' in at("n2", domain(text))


def test_a_move_keeps_own_numbers_that_fit_and_tells_what_was_dropped() -> None:
    own = domain(pins(vcpu="0-3", pin0="3", emulator="1-2"))
    fitted = pinning.fitted(own, THREE, "n2", "n1")
    assert numbers(fitted.xml) == {"vcpu": "0-1", "vcpupin:0": "0-1", "emulatorpin": "1"}
    assert fitted.dropped == ("vcpupin:0",)
    assert pinning.fitted(own, THREE, "outside", "n2").xml == own


@given(st.data())
def test_what_is_shown_and_defined_again_is_the_same_definition(data: st.DataObject) -> None:
    cells = cell_map(*data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    place = data.draw(st.sampled_from(cells.places))
    cpus = st.none() | st.frozensets(st.integers(0, place.width - 1), min_size=1)
    given_numbers = [format_set(data.draw(cpus) or ()) for _ in range(3)]
    own = domain(pins(*given_numbers))
    shown = pinning.shown(own, cells, place.node)
    again = pinning.asked(shown, cells, own, place.node)
    assert again is None or pinning.placed(again, cells, place.node) == own
    fresh = pinning.asked(shown, cells)
    assert fresh is None or pinning.placed(fresh, cells, place.node) == own


@given(st.binary(max_size=60), st.integers(0, 200))
def test_no_text_makes_it_fail(junk: bytes, where: int) -> None:
    text = domain(pins(pin0="3", nodeset="2"))
    damaged = text[:where] + junk + text[where:]
    pinning.shown(damaged, THREE, "n1")
    try:
        asked = pinning.asked(damaged, THREE, damaged, "n1")
    except ConfigUnsupported:
        return
    if asked is not None:
        pinning.placed(asked, THREE, "n3")
