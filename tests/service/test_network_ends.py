"""What the words of a trace mean, and what a picture of the networks holds, over fake nodes and a real store."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from clusterhost.model.errors import ClusterError, DomainNotFound, InvalidArgument
from clusterhost.service.admin import METHODS
from clusterhost.service.network_ends import Ends, ends
from clusterhost.service.world import World
from compat.libvirt import messages as lv
from compat.libvirt.schema import BY_NAME
from netmgr.hops import Plug
from netmgr.picture import Interface, Picture
from netmgr.walk import Beyond
from tests.support.clusters import ANYONE, Front, running
from tests.support.fakelibvirt import domain_xml

DEFINE = BY_NAME["remote:DOMAIN_DEFINE_XML"]
NETWORK = """<network><name>{name}</name><forward mode='nat'/><ip address='10.{n}.0.1' prefix='24'>
<dhcp><range start='10.{n}.0.10' end='10.{n}.0.99'/></dhcp></ip>
<ip family='ipv6' address='fd00:{n}::1' prefix='64'><dhcp><range start='fd00:{n}::10' end='fd00:{n}::99'/></dhcp></ip>
</network>"""


async def define(front: Front, name: str, *networks: str) -> None:
    nics = "".join(
        f"<interface type='network'><source network='{network}'/></interface>" for network in networks
    )
    xml = domain_xml(name, uuid.uuid4().bytes).replace("</domain>", f"<devices>{nics}</devices></domain>")
    payload = lv.RemoteDomainDefineXmlArgs(xml).to_bytes()
    await front.world.numbering.define(ANYONE, DEFINE, payload, xml)
    await front.quiet()


@asynccontextmanager
async def plugged(tmp_path: Path) -> AsyncIterator[World]:
    """g1 is on blue, g2 on red and blue, g3 on red."""
    async with running(tmp_path) as front:
        for number, name in enumerate(("blue", "red"), 1):
            document = NETWORK.format(name=name, n=number)
            net = await front.world.networking.networks.define(ANYONE, document, validate=False)
            await front.world.networking.networks.start(ANYONE, net.uuid)
        await define(front, "g1", "blue")
        await define(front, "g2", "red", "blue")
        await define(front, "g3", "red")
        yield front.world


def plug(found: Ends) -> Plug:
    assert isinstance(found.target, Plug)
    return found.target


async def test_interfaces_on_one_network_are_preferred_to_the_first_ones(tmp_path):
    async with plugged(tmp_path) as world:
        found = await ends(world, "g1", "g2")
        assert (found.source.name, plug(found).name) == ("blue", "blue")
        assert (await ends(world, "g2", "g3")).source.name == "red"
        apart = await ends(world, "g1", "g3")
        assert (apart.source.name, plug(apart).name) == ("blue", "red")


async def test_a_mac_or_an_address_names_one_interface(tmp_path):
    async with plugged(tmp_path) as world:
        red = next(row for row in world.ledger.leases.values() if row.name == "g2" and "10.2." in row.address)
        assert plug(await ends(world, "g1", f"g2:{red.mac.upper()}")).name == "red"
        assert plug(await ends(world, "g1", red.address)).mac == red.mac
        six = next(row for row in world.ledger.leases.values() if row.mac == red.mac and row.family == 6)
        spelt = six.address.replace("::", ":0:0::")
        assert plug(await ends(world, "g1", spelt)).addresses == (red.address, six.address)


async def test_the_gateway_and_addresses_that_nobody_has_are_beyond_the_guests(tmp_path):
    async with plugged(tmp_path) as world:
        for words in ("gateway", "10.1.0.1"):
            assert (await ends(world, "g1", words)).target == Beyond("10.1.0.1", gateway=True)
        assert (await ends(world, "g1", "192.0.2.9")).target == Beyond("192.0.2.9")


@pytest.mark.parametrize(
    ("source", "target", "error"),
    [
        ("nobody", "g1", DomainNotFound),
        ("g1", "nobody", DomainNotFound),
        ("g1", "g1", InvalidArgument),
        ("g1", "10.1.0.77", InvalidArgument),
        ("g1:02:00:00:00:00:01", "g2", InvalidArgument),
    ],
)
async def test_words_that_mean_nothing_are_refused(tmp_path, source, target, error):
    async with plugged(tmp_path) as world:
        with pytest.raises(error):
            await ends(world, source, target)


async def test_a_trace_from_a_domain_that_is_off_says_so_without_asking_for_more(tmp_path):
    async with plugged(tmp_path) as world:
        answer = await METHODS["network.trace"](world, {"source": "g1", "target": "g2"}, lambda *_: None)
        assert answer["end"] == "it stops at the interface at n1: domain g1 is not running"
        assert [hop["state"] for hop in answer["hops"]] == ["broken"]
        with pytest.raises(ClusterError, match="'target' must be a word"):
            await METHODS["network.trace"](world, {"source": "g1"}, lambda *_: None)


async def test_a_picture_holds_every_guest_once_with_all_its_interfaces(tmp_path):
    async with plugged(tmp_path) as world:
        picture = await METHODS["network.diagram"](world, {}, lambda *_: None)
        assert isinstance(picture, Picture)
        assert [net.name for net in picture.networks] == ["default", "blue", "red"]
        assert [guest.name for guest in picture.guests] == ["g1", "g2", "g3"]
        both = picture.guests[1]
        assert {interface.network for interface in both.interfaces} == {"blue", "red"}
        assert all(len(interface.addresses) == 2 for interface in both.interfaces)
        assert isinstance(both.interfaces[0], Interface)
        one = await METHODS["network.diagram"](world, {"network": "red"}, lambda *_: None)
        assert isinstance(one, Picture)
        assert [guest.name for guest in one.guests] == ["g2", "g3"]
