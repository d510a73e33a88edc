"""Networks' documents and updates: the same answers as libvirt's, from tables that libvirt itself filled in."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netmgr import errors, fill, rules, xml
from netmgr.model import Network
from netmgr.update import update
from tests.support import nettables
from tests.unit.netmgr.differences import OURS, SHOWN

CODES = {
    errors.BadValue: 1,
    errors.Clash: 9,
    errors.NameMissing: 21,
    errors.XmlInvalid: 27,
    errors.XmlRefused: 27,
    errors.XmlMalformed: 35,
    errors.BadAddress: 38,
    errors.OperationInvalid: 55,
    errors.ConfigUnsupported: 67,
    errors.OperationUnsupported: 84,
    errors.SchemaInvalid: 92,
}
"""libvirt's numbers of our errors."""

DOCUMENTS = nettables.documents()
UPDATES = nettables.updates()
BASES = nettables.bases()
ACCEPTED = [case for case in DOCUMENTS if OURS.get(case.what, (case.code, 0))[0] == 0]


def outcome(text: str, *, validate: bool = False) -> tuple[int, Network | None, str]:
    """libvirt's code for what we say, the network, and our words."""
    try:
        network = xml.read(text, validate=validate)
        rules.check(network)
    except errors.NetworkError as error:
        return CODES[type(error)], None, str(error)
    return 0, network, ""


def complete(network: Network) -> Network:
    return fill.complete(network, bytes(range(16)), "52:54:00:11:11:11", ())


def test_the_table_has_good_and_bad_documents_of_every_kind():
    assert len(DOCUMENTS) > 500
    assert {0, 1, 21, 27, 35, 38, 67} == {case.code for case in DOCUMENTS}
    assert {0, 1, 27, 35, 55, 67, 84} == {case.code for case in UPDATES}


@pytest.mark.parametrize("case", DOCUMENTS, ids=lambda case: case.what)
def test_a_document_is_taken_or_refused_as_by_libvirt(case: nettables.Document):
    code, strict = OURS.get(case.what, (case.code, case.strict))
    found, _, words = outcome(case.xml)
    assert (found, words == "") == (code, code == 0), words
    validated, _, words = outcome(case.xml, validate=True)
    assert (validated, words == "") == (strict, strict == 0), words


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case.what)
def test_a_network_is_shown_as_by_libvirt(case: nettables.Document):
    _, network, _ = outcome(case.xml)
    assert network is not None
    shown = nettables.plain(xml.write(complete(network)))
    assert (shown == case.shows) == (case.what not in SHOWN), shown


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case.what)
def test_what_is_written_reads_as_the_same_network(case: nettables.Document):
    network = complete(xml.read(case.xml))
    assert xml.read(xml.write(network)) == network


@pytest.mark.parametrize("case", UPDATES, ids=lambda case: case.what)
def test_an_update_does_what_libvirts_does(case: nettables.Update):
    network = complete(xml.read(BASES[case.base]))
    command, section = nettables.COMMANDS.index(case.command), nettables.SECTIONS.index(case.section)
    before, code = xml.write(network), 0
    try:
        network = update(network, command, section, case.index, case.xml)
    except errors.NetworkError as error:
        code = CODES[type(error)]
    refused_by_us = "<!DOCTYPE" in case.xml
    assert code == (27 if refused_by_us else case.code)
    assert nettables.difference(before, xml.write(network)) == ("" if refused_by_us else case.shows)


def test_connections_show_in_the_document_of_what_is_in_force():
    network = complete(xml.read("<network><name>x</name></network>"))
    assert xml.write(network, connections=3).startswith("<network connections='3'>\n  <name>x</name>")
    assert "connections" not in xml.write(network, connections=0)


def test_pci_devices_and_what_is_newer_than_libvirt_9_are_written_too():
    text = (
        "<network><name>x</name><title>a &amp; b</title><description>c</description>"
        "<forward mode='hostdev' managed='yes'><driver name='vfio'/>"
        "<address type='pci' domain='0' bus='0x0a' slot='4' function='1'/></forward>"
        "<newer a='1'><b>t</b></newer></network>"
    )
    assert xml.write(replace(xml.read(text), uuid=bytes(16))) == (
        "<network>\n  <name>x</name>\n  <uuid>00000000-0000-0000-0000-000000000000</uuid>\n"
        "  <title>a &amp; b</title>\n  <description>c</description>\n"
        "  <forward mode='hostdev' managed='yes'>\n    <driver name='vfio'/>\n"
        "    <address type='pci' domain='0x0000' bus='0x0a' slot='0x04' function='0x1'/>\n  </forward>\n"
        '  <newer a="1">\n    <b>t</b>\n  </newer>\n</network>\n'
    )


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn"]), min_size=1, max_size=20)


@given(WORDS, WORDS, WORDS)
def test_texts_of_any_kind_survive_writing_and_reading(title: str, record: str, option: str):
    network = replace(
        xml.read("<network><name>x</name><dns><txt name='t' value=''/></dns></network>"),
        title=title,
        options=(option,),
    )
    network = replace(network, dns=replace(network.dns, txts=(replace(network.dns.txts[0], value=record),)))
    assert xml.read(xml.write(network)) == network


MISTAKES = st.sampled_from(
    ["<", ">", "'", "''", "/>", "x", "-1", "0", "99999999999", "fd00::1", "", "</ip>", "<ip>", "&"]
)


@given(st.sampled_from([case.xml for case in DOCUMENTS]), st.integers(0, 4000), st.integers(0, 8), MISTAKES)
def test_a_damaged_document_is_refused_by_name_or_read(text: str, place: int, size: int, instead: str):
    place %= len(text) + 1
    damaged = text[:place] + instead + text[place + size :]
    code, network, words = outcome(damaged)
    assert (network is None) == bool(words) == (code != 0)
    assert "\n" not in words or "\\n" in words or "\n" in damaged
