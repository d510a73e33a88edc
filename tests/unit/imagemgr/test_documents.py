"""Pools' and volumes' documents: the same answers as libvirt's, from tables that libvirt itself filled in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagemgr import errors, rules, xml
from imagemgr.model import Permissions, Pool, PoolType, Room, Volume
from tests.support import pooltables
from tests.unit.imagemgr import differences

CODES = {
    errors.BadValue: 1,
    errors.NotOfThisPool: 3,
    errors.BadUnit: 8,
    errors.Clash: 9,
    errors.XmlInvalid: 27,
    errors.XmlRefused: 27,
    errors.XmlMalformed: 35,
    errors.ConfigUnsupported: 67,
    errors.TooLarge: 82,
}
"""libvirt's numbers of our errors."""

POOLS = pooltables.pools()
BESIDE = pooltables.beside()
VOLUMES = pooltables.volumes()
POOLS_TAKEN = [case for case in POOLS if differences.POOLS.get(case.what, case.code) == 0]
VOLUMES_TAKEN = [case for case in VOLUMES if differences.VOLUMES.get(case.what, case.code) == 0]
UUID = bytes(range(16))
Read = TypeVar("Read")


def outcome(read: Callable[[], Read]) -> tuple[int, Read | None, str]:
    """libvirt's code for what we say, what was read, and our words."""
    try:
        return 0, read(), ""
    except errors.ImageError as error:
        return CODES[type(error)], None, str(error)


def read_volume(case: pooltables.VolumeCase) -> Volume:
    # As libvirt's test driver, which wants a capacity always.
    return xml.read_volume(case.xml, PoolType(case.pool), xml.Capacity.NEEDED)


def placed(volume: Volume, kind: PoolType) -> Volume:
    """The volume as libvirt's test driver keeps it."""
    path = f"/dev/{'zvol/' * (kind is PoolType.ZFS)}s" if kind in (PoolType.LOGICAL, PoolType.ZFS) else "/p"
    path = f"{path if kind.has_target else '(null)'}/{volume.name}"
    made = replace(volume.target, path=path, timestamps=(), nocow=False)
    return replace(volume, key=path, extents=(), physical=0, target=made)


def test_the_tables_have_good_and_bad_documents_of_every_kind():
    assert len(POOLS) + len(BESIDE) + len(VOLUMES) > 1000
    assert {0, 1, 3, 27, 35, 67} == {case.code for case in POOLS}
    assert {0, 9} == {case.code for case in BESIDE}
    assert {0, 1, 8, 27, 35, 67, 82} == {case.code for case in VOLUMES}
    kinds = {kind for kind in PoolType for case in POOLS if case.code == 0 and f"type='{kind}'" in case.xml}
    assert kinds == set(PoolType)


@pytest.mark.parametrize("case", POOLS, ids=lambda case: case.what)
def test_a_pool_is_taken_or_refused_as_by_libvirt(case: pooltables.PoolCase):
    found, _, words = outcome(lambda: xml.read_pool(case.xml))
    assert (found, words == "") == (differences.POOLS.get(case.what, case.code), found == 0), words


@pytest.mark.parametrize("case", POOLS_TAKEN, ids=lambda case: case.what)
def test_a_pool_is_shown_as_by_libvirt(case: pooltables.PoolCase):
    shown = pooltables.plain(xml.write_pool(xml.read_pool(case.xml)))
    assert (shown == case.shows) == (case.what not in differences.POOLS_SHOWN), shown


@pytest.mark.parametrize("case", POOLS_TAKEN, ids=lambda case: case.what)
def test_what_is_written_of_a_pool_reads_as_the_same_pool(case: pooltables.PoolCase):
    written = xml.write_pool(xml.read_pool(case.xml))
    assert xml.write_pool(xml.read_pool(written)) == written


@pytest.mark.parametrize("case", BESIDE, ids=lambda case: case.what)
def test_a_pool_is_refused_beside_others_as_by_libvirt(case: pooltables.BesideCase):
    known = [xml.read_pool(text) for text in case.known]
    known = [
        pool if pool.uuid else replace(pool, uuid=UUID[:-1] + bytes([n])) for n, pool in enumerate(known)
    ]
    found, _, words = outcome(lambda: rules.check(xml.read_pool(case.xml), known))
    assert found == case.code, words


@pytest.mark.parametrize("case", VOLUMES, ids=lambda case: case.what)
def test_a_volume_is_taken_or_refused_as_by_libvirt(case: pooltables.VolumeCase):
    found, _, words = outcome(lambda: read_volume(case))
    assert (found, words == "") == (differences.VOLUMES.get(case.what, case.code), found == 0), words


@pytest.mark.parametrize("case", VOLUMES_TAKEN, ids=lambda case: case.what)
def test_a_volume_is_shown_as_by_libvirt(case: pooltables.VolumeCase):
    shown = xml.write_volume(placed(read_volume(case), PoolType(case.pool)))
    assert (shown == case.shows) == (case.what not in differences.VOLUMES_SHOWN), shown


@pytest.mark.parametrize("case", VOLUMES_TAKEN, ids=lambda case: case.what)
def test_a_request_for_a_volume_reads_as_the_same_volume(case: pooltables.VolumeCase):
    volume = read_volume(case)
    assert xml.read_volume(xml.write_volume(volume, request=True), PoolType(case.pool)) == volume


def test_the_capacity_of_a_volume_may_be_left_out_for_an_overlay_or_a_clone():
    plain = "<volume><name>v</name></volume>"
    backed = "<volume><name>v</name><backingStore><path>/b</path></backingStore></volume>"
    taken = {
        (document, need): outcome(lambda d=document, n=need: xml.read_volume(d, PoolType.DIR, n))[0]
        for document in (plain, backed)
        for need in xml.Capacity
    }
    assert {key for key, code in taken.items() if code == 0} == {
        (backed, xml.Capacity.UNLESS_BACKED),
        (backed, xml.Capacity.FREE),
        (plain, xml.Capacity.FREE),
    }
    assert set(taken.values()) == {0, 27}


def test_what_a_node_says_of_a_volume_is_written_again_as_it_came():
    text = (
        "<volume type='block'>\n  <name>v</name>\n  <key>k</key>\n  <source>\n    <device path='/dev/a'>\n"
        "      <extent start='0' end='4'/>\n      <extent start='8' end='12'/>\n    </device>\n"
        "    <device path='/dev/b'>\n      <extent start='1' end='2'/>\n    </device>\n  </source>\n"
        "  <capacity unit='bytes'>8</capacity>\n  <allocation unit='bytes'>4</allocation>\n"
        "  <physical unit='bytes'>4</physical>\n  <target>\n    <path>/p/v</path>\n"
        "    <timestamps>\n      <atime>1.000000005</atime>\n      <mtime>2</mtime>\n      <ctime>3.5</ctime>\n"
        "      <btime>0</btime>\n    </timestamps>\n  </target>\n</volume>\n"
    )
    assert xml.write_volume(xml.read_volume(text, PoolType.LOGICAL)) == text


def test_a_pool_shows_its_room():
    pool = xml.read_pool("<pool type='dir'><name>x</name><target><path>/p</path></target></pool>")
    text = xml.write_pool(pool, Room(10, 3, 7) + Room(10, 1, 9))
    assert "<capacity unit='bytes'>20</capacity>\n  <allocation unit='bytes'>4</allocation>" in text
    assert "<available unit='bytes'>16</available>" in text


def test_a_source_alone_is_read_and_written():
    text = "<source>\n  <host name='h' port='5'/>\n  <dir path='/s'/>\n  <format type='nfs'/>\n</source>\n"
    source = xml.read_source(text, PoolType.NETFS)
    assert xml.write_source(source, PoolType.NETFS.traits) == text
    with pytest.raises(errors.XmlInvalid, match="root element is <pool>, it must be <source>"):
        xml.read_source("<pool/>", PoolType.NETFS)


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cn", "Cc"]), min_size=1, max_size=20)
LAYOUT = st.text(st.sampled_from("a\n\t\r '\"<&>"), min_size=1, max_size=9)


@given(WORDS, WORDS | LAYOUT, WORDS | LAYOUT)
def test_texts_of_any_kind_survive_writing_and_reading(name: str, label: str, vendor: str):
    pool = Pool(PoolType.DIR, name.replace("/", "_"), UUID)
    pool = replace(pool, source=replace(pool.source, vendor=vendor))
    pool = replace(pool, target=replace(pool.target, path="/p", permissions=Permissions(0o700, 0, 5, label)))
    assert xml.read_pool(xml.write_pool(pool)) == pool


MISTAKES = st.sampled_from(
    ["<", ">", "'", "/>", "x", "-1", "99999999999999999999", "", "</name>", "<name>", "&"]
)
SOME = [(case.xml, None) for case in POOLS] + [(case.xml, PoolType(case.pool)) for case in VOLUMES]


@given(st.sampled_from(SOME), st.integers(0, 4000), st.integers(0, 8), MISTAKES)
def test_a_damaged_document_is_refused_by_name_or_read(
    document: tuple[str, PoolType | None], place: int, size: int, instead: str
):
    text, kind = document
    place %= len(text) + 1
    damaged = text[:place] + instead + text[place + size :]
    read: Callable[[], Pool | Volume]
    read = (lambda: xml.read_pool(damaged)) if kind is None else (lambda: xml.read_volume(damaged, kind))
    code, found, words = outcome(read)
    assert (found is None) == bool(words) == (code != 0)
