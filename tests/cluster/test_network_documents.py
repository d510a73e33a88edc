"""The tables of networks' documents and updates hold what a real libvirtd says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lxml import etree

from netmgr import fill, xml
from netmgr.errors import SchemaInvalid
from tests.support import nettables
from tests.support.libvirtd import nodes

pytestmark = pytest.mark.real
OTHERWISE = {"ip netmask bad", "dns srv empty target", "srv target empty only"}
"""We refuse them, or write them otherwise."""
NEWER = {"title", "domain register"}
"""We know them, libvirt 9.0 does not."""
SIGNED = {"bridge delay plus", "ip prefix +24"}
"""Whether a plus sign fits an unsigned number depends on the version of libxml2; libvirt's says no."""
SCHEMA = Path("/usr/share/libvirt/schemas/network.rng")


@pytest.fixture
def oracle(tmp_path: Path) -> Iterator[nettables.Oracle]:
    with nodes(tmp_path, "n1") as started:
        found = nettables.Oracle(started["n1"])
        yield found
        found.close()


def test_libvirtd_says_of_each_document_what_the_table_says(oracle: nettables.Oracle):
    wrong = [case.what for case in nettables.documents() if oracle.define(case) != case]
    assert wrong == []


def test_libvirtd_says_of_each_update_what_the_table_says(oracle: nettables.Oracle):
    bases = nettables.bases()
    wrong = [case.what for case in nettables.updates() if oracle.update(case, bases[case.base]) != case]
    assert wrong == []


def test_what_we_write_is_taken_by_libvirtd_and_shown_the_same(oracle: nettables.Oracle):
    wrong = []
    for case in nettables.documents():
        if case.code == 0 and case.strict == 0 and case.what not in OTHERWISE:
            ours = xml.write(xml.read(case.shows))
            found = oracle.define(nettables.Document(case.what, ours))
            if (found.code, found.strict, found.shows) != (0, 0, case.shows):
                wrong.append(case.what)
    assert wrong == []


def test_libvirtd_takes_the_network_that_stands_for_ours(oracle: nettables.Oracle):
    wrong = []
    for case in nettables.documents():
        if case.code == 0 and case.strict == 0 and case.what not in OTHERWISE:
            whole = fill.complete(xml.read(case.shows), bytes(range(16)), "52:54:00:01:02:03", ())
            given = fill.shadow(whole)
            found = oracle.define(nettables.Document(case.what, given))
            if (found.code, found.strict, found.shows) != (0, 0, nettables.plain(given)):
                wrong.append(case.what)
    assert wrong == []


def test_our_validation_agrees_with_libvirts_schema():
    schema = etree.RelaxNG(etree.parse(SCHEMA))
    wrong = []
    for case in nettables.documents():
        try:
            root = etree.fromstring(case.xml)
        except etree.XMLSyntaxError:
            continue
        if root.tag != "network" or "<!DOCTYPE" in case.xml:
            continue
        try:
            xml.schema.check(root)
            fits = True
        except SchemaInvalid:
            fits = False
        if fits != schema.validate(root) and case.what not in NEWER | SIGNED:
            wrong.append(case.what)
    assert wrong == []
