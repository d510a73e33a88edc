"""The metadata element of a seed: what it may say, what is refused, and where a run's disk goes."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compat.xmldoc import XmlDocument
from imagemgr import seedxml
from imagemgr.errors import ConfigUnsupported, ImageError, XmlInvalid
from imagemgr.seedxml import NAMESPACE, Wish
from tests.support.sshkeys import KEY


def domain(inner: str = "", attributes: str = "", name: str = "web", devices: str = "", os: str = "") -> str:
    """A definition with the element, as a user writes it."""
    seed = f"<ch:seed xmlns:ch='{NAMESPACE}' {attributes}>{inner}</ch:seed>"
    return (
        f"<domain><name>{name}</name><metadata><o:own xmlns:o='urn:o'/>{seed}</metadata>"
        f"<os>{os}</os><devices>{devices}</devices></domain>"
    )


def wish(inner: str = "", attributes: str = "", **more: str) -> Wish:
    found = seedxml.wish_of(domain(inner, attributes, **more))
    assert found is not None
    return found


def test_an_empty_element_asks_for_all_that_is_usual():
    assert wish() == Wish(pool="default", network="auto")


def test_a_definition_without_it_asks_for_nothing():
    assert seedxml.wish_of("<domain><name>web</name></domain>") is None
    assert seedxml.wish_of(f"<domain><!-- {NAMESPACE} --></domain>") is None
    assert seedxml.wish_of(f"<domain {NAMESPACE}") is None, "what is no document is refused by others"


def test_each_field_is_read():
    attributes = "name='web.example.org' pool='blue' network='dhcp' instance-id='i-2' bus='virtio'"
    inner = f"<!-- mine --><ch:key>{KEY}</ch:key><ch:key>\n  {KEY}2\n  {KEY}3\n</ch:key>"
    inner += "<ch:user-data>#!/bin/sh\ntrue</ch:user-data>"
    assert wish(inner, attributes) == Wish(
        "web.example.org",
        "blue",
        "dhcp",
        "i-2",
        "virtio",
        (KEY, f"{KEY}2", f"{KEY}3"),
        b"#!/bin/sh\ntrue\n",
    )


def test_the_prefix_is_the_writers_affair():
    text = f"<domain><name>w</name><metadata><seed xmlns='{NAMESPACE}'><key>{KEY}</key></seed></metadata></domain>"
    found = seedxml.wish_of(text)
    assert found is not None
    assert found.keys == (KEY,)


def test_user_data_may_be_indented_as_the_document_is():
    inner = """<ch:user-data>
        #cloud-config
        write_files:
          - path: /x
      </ch:user-data>"""
    assert wish(inner).user_data == b"#cloud-config\nwrite_files:\n  - path: /x\n"
    assert (
        wish("<ch:user-data><![CDATA[#!/bin/sh\na && b < c]]></ch:user-data>").user_data
        == b"#!/bin/sh\na && b < c\n"
    )
    assert wish("<ch:user-data>\n </ch:user-data>").user_data == b""


@given(st.binary(max_size=200))
def test_any_bytes_are_user_data_as_base64(data):
    text = base64.encodebytes(data).decode()
    assert wish(f"<ch:user-data encoding='base64'>{text}</ch:user-data>").user_data == data


def test_user_data_may_be_a_volume_of_the_seeds_pool_or_another():
    assert wish("<ch:user-data volume='a.yaml'/>", "pool='blue'").volume == ("blue", "a.yaml")
    assert wish("<ch:user-data volume='a.yaml' pool='red'/>").volume == ("red", "a.yaml")


@pytest.mark.parametrize(
    ("attribute", "text"),
    [
        ("hostname='x'", "unexpected attribute 'hostname' of <seed>, allowed are name, pool, "),
        ("name=''", "attribute 'name' of <seed> is empty"),
        ("name='a b'", "'a b' is no host name"),
        ("instance-id='a b'", "'a b' is no instance id"),
    ],
)
def test_an_attribute_that_cannot_be_is_refused_with_the_reason(attribute, text):
    with pytest.raises(XmlInvalid) as refused:
        seedxml.wish_of(domain(attributes=attribute))
    assert text in str(refused.value)


@pytest.mark.parametrize(
    ("inner", "text"),
    [
        ("<ch:keys/>", "unexpected element <keys> in <seed>"),
        ("<key/>", "unexpected element <key> in <seed>"),
        ("<ch:key>hello</ch:key>", "'hello' is no public key"),
        ("<ch:key/>", "it has no key in it"),
        ("<ch:key type='x'/>", "unexpected attribute 'type' of <key>"),
        ("<ch:user-data/><ch:user-data/>", "one element <user-data>"),
        ("<ch:user-data><b/></ch:user-data>", "CDATA"),
        ("<ch:user-data volume='a'>text</ch:user-data>", "either a volume or text"),
        ("<ch:user-data pool='a'>text</ch:user-data>", "a pool and no volume"),
        ("<ch:user-data encoding='base64'>f</ch:user-data>", "is no base64"),
    ],
)
def test_an_element_that_cannot_be_is_refused_with_the_reason(inner, text):
    with pytest.raises(XmlInvalid) as refused:
        seedxml.wish_of(domain(inner))
    assert text in str(refused.value)


@pytest.mark.parametrize(
    ("inner", "attribute", "text"),
    [
        ("", "network='bridge'", "network='bridge' of <seed> is not one of auto, dhcp, none"),
        ("", "bus='scsi'", "bus='scsi' of <seed> is not one of ide, sata, usb, virtio"),
        ("<ch:user-data encoding='hex'>ff</ch:user-data>", "", "is not one of base64"),
    ],
)
def test_a_value_that_is_none_of_those_there_are_is_unsupported(inner, attribute, text):
    with pytest.raises(ConfigUnsupported) as refused:
        seedxml.wish_of(domain(inner, attribute))
    assert text in str(refused.value)


@pytest.mark.parametrize("name", ["web_1", ".web", "x" * 250])
def test_a_domain_whose_name_cannot_be_the_guests_or_a_volumes_is_refused(name):
    with pytest.raises(XmlInvalid, match="the seed of the domain"):
        seedxml.wish_of(domain(name=name))


def test_a_name_of_its_own_frees_the_guests_from_the_domains():
    assert wish(attributes="name='web-1'", name="web_1").name == "web-1"


def test_there_is_one_element_called_seed():
    for inner in (f"<ch:other xmlns:ch='{NAMESPACE}'/>", f"<ch:seed xmlns:ch='{NAMESPACE}'/>" * 2):
        with pytest.raises(XmlInvalid, match="are one element <seed>"):
            seedxml.wish_of(f"<domain><name>w</name><metadata>{inner}</metadata></domain>")


@given(st.text(max_size=30), st.text(max_size=30))
def test_whatever_is_in_it_is_taken_or_refused_by_name(attribute, text):
    document = XmlDocument.parse(domain("<ch:key/>"))
    try:
        document.set_attribute("metadata/*[2]", "name", attribute)
        document.set_text("metadata/*[2]/*", text)
    except ValueError:
        return  # no document can have that
    try:
        found = seedxml.wish_of(document.to_string())
    except ImageError:
        return
    assert found is not None
    assert found.keys


# -- the disk


def disk(xml: str, bus: str = "") -> tuple[str, ...]:
    """Of the last disk: device, bus, target, path."""
    after = XmlDocument.parse(seedxml.with_disk(xml, "/pool/a&b-seed.iso", bus))
    last = list(after.all("devices/disk"))[-1]
    target, source = last.find("target"), last.find("source")
    assert last.find("readonly") is not None
    return (last.get("device"), target.get("bus"), target.get("dev"), source.get("file"))


PATH = "/pool/a&b-seed.iso"
AT = "<disk><target dev='{}' bus='{}'/><address type='drive' controller='0' bus='{}' unit='{}'/></disk>"


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ("arch='x86_64' machine='pc-q35-7.2'", ("cdrom", "sata", "sdf", PATH)),
        ("arch='x86_64' machine='pc-i440fx-7.2'", ("cdrom", "ide", "hdd", PATH)),
        ("machine='pc'", ("cdrom", "ide", "hdd", PATH)),
        ("", ("cdrom", "ide", "hdd", PATH)),
        ("arch='x86_64' machine='microvm'", ("disk", "virtio", "vdz", PATH)),
        ("arch='aarch64' machine='virt-7.2'", ("disk", "virtio", "vdz", PATH)),
    ],
)
def test_the_disk_is_where_the_machine_has_room_for_cds(machine, expected):
    assert disk(domain(os=f"<type {machine}>hvm</type>")) == expected


def test_it_takes_no_place_that_another_has():
    ide = AT.format("hdd", "ide", 1, 1) + AT.format("hdx", "ide", 1, 0)
    assert disk(domain(devices=ide))[2] == "hdb"
    full = "".join(AT.format(f"hd{'abcd'[at]}", "ide", at // 2, at % 2) for at in range(4))
    assert disk(domain(devices=full)) == ("disk", "virtio", "vdz", PATH)
    assert disk(domain(devices=full + "<disk><target dev='vdz' bus='virtio'/></disk>"))[2] == "vdy"
    with pytest.raises(ConfigUnsupported, match="no place left for the seed on bus ide"):
        disk(domain(devices=full), "ide")


def test_a_bus_that_is_said_is_the_bus():
    assert disk(domain(), "usb") == ("cdrom", "usb", "sdz", PATH)
    assert disk("<domain/>", "sata") == ("cdrom", "sata", "sdf", PATH)


def test_macs_are_told_in_the_interfaces_order():
    interfaces = "<interface><mac address='52:54:00:AA:00:01'/></interface><interface/>"
    assert seedxml.macs_of(domain(devices=interfaces)) == ("52:54:00:aa:00:01", "")
    assert seedxml.macs_of("<domain") == ()
