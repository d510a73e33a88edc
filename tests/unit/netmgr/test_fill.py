"""What is filled in, and what a node's libvirtd is given."""

from __future__ import annotations

from dataclasses import replace

import pytest

from netmgr import fill, xml
from netmgr.errors import InUse
from netmgr.model import Mode

UUID, MAC = bytes(range(16)), "52:54:00:01:02:03"


def read(body: str):
    return xml.read(f"<network><name>x</name>{body}</network>")


def test_uuid_bridge_and_mac_are_filled_in_where_they_are_missing():
    found = fill.complete(read(""), UUID, MAC, {"virbr0", "virbr2"})
    assert (found.uuid, found.bridge.name, found.mac) == (UUID, "virbr1", MAC)


def test_what_is_given_stays():
    given = read(
        "<uuid>6ba7b810-9dad-11d1-80b4-00c04fd430c8</uuid><bridge name='b1'/><mac address='52:54:00:0:0:9'/>"
    )
    assert fill.complete(given, UUID, MAC, {"b1"}) == given


def test_a_template_becomes_the_first_free_name():
    assert fill.complete(read("<bridge name='lab%dx'/>"), UUID, MAC, {"lab0x"}).bridge.name == "lab1x"


def test_a_network_that_is_passed_on_gets_a_uuid_only():
    found = fill.complete(read("<forward mode='vepa' dev='e1'/>"), UUID, MAC, ())
    assert (found.uuid, found.bridge.name, found.mac) == (UUID, "", "")


class Everything:
    """All names are taken."""

    def __contains__(self, _name: object) -> bool:
        return True


def test_bridge_names_can_run_out():
    with pytest.raises(InUse, match=r"all 65536 bridge names of 'virbr%d' are in use"):
        fill.complete(read(""), UUID, MAC, Everything())


def mark(found) -> str:
    [text] = found.metadata
    assert text.startswith('<ch:shadow xmlns:ch="urn:clusterhost:network:1" digest="')
    return text


def test_libvirtd_is_given_a_bridge_of_the_same_name_and_uuid():
    own = fill.complete(
        read(
            "<forward mode='nat'/><bridge name='b1' stp='off' delay='3' macTableManager='libvirt'/><mtu size='1400'/>"
            "<domain name='d'/><dns><txt name='a' value='b'/></dns><bandwidth><inbound average='5'/></bandwidth>"
            "<port isolated='yes'/><ip address='10.0.0.1' prefix='24'/>"
            "<portgroup name='p'><bandwidth><inbound average='5'/></bandwidth></portgroup>"
        ),
        UUID,
        MAC,
        (),
    )
    assert fill.shadow(own) == (
        "<network>\n  <name>x</name>\n  <uuid>00010203-0405-0607-0809-0a0b0c0d0e0f</uuid>\n"
        f"  <metadata>\n    {mark(fill.for_libvirtd(own))}\n  </metadata>\n"
        "  <forward mode='bridge'/>\n  <bridge name='b1' macTableManager='libvirt'/>\n"
        "  <port isolated='yes'/>\n"
        "  <portgroup name='p'>\n    <bandwidth>\n      <inbound average='5'/>\n    </bandwidth>\n  </portgroup>\n"
        "</network>\n"
    )


def test_a_passed_on_network_names_the_nodes_devices():
    theirs = read("<forward mode='passthrough'><interface dev='lan'/><interface dev='e2'/></forward><foo/>")
    found = fill.for_libvirtd(replace(theirs, uuid=UUID), {"lan": "enp3s0"})
    assert found.forward.interfaces == ("enp3s0", "e2")
    assert (found.mode, found.uuid, found.kept) == (Mode.PASSTHROUGH, UUID, ())
    bridged = read("<forward mode='bridge'/><bridge name='lan'/>")
    assert fill.for_libvirtd(bridged, {"lan": "br3"}).bridge.name == "br3"
    hosted = read("<forward mode='hostdev'><pf dev='lan'/></forward>")
    assert fill.for_libvirtd(hosted, {"lan": "enp3s0"}).forward.pf == "enp3s0"


def test_the_mark_tells_documents_apart_and_nothing_else():
    one = read("<forward mode='bridge'/><bridge name='lan'/>")
    other = replace(one, metadata=("<a:b xmlns:a='urn:a'/>",))
    assert mark(fill.for_libvirtd(one)) == mark(fill.for_libvirtd(other))
    assert mark(fill.for_libvirtd(one)) != mark(fill.for_libvirtd(one, {"lan": "br3"}))


def test_what_is_libvirts_to_do_stays_in_a_network_that_is_passed_on():
    body = (
        "<forward mode='bridge'/><bridge name='ovs0'/><vlan trunk='yes'><tag id='42'/><tag id='47'/></vlan>"
        "<port isolated='yes'/><virtualport type='openvswitch'/>"
        "<portgroup name='p' default='yes'><vlan><tag id='5'/></vlan>"
        "<bandwidth><inbound average='5'/></bandwidth></portgroup>"
    )
    theirs = replace(read(body), uuid=UUID)
    assert replace(fill.for_libvirtd(theirs), metadata=None) == theirs
