"""Networks and the addresses of guests' interfaces, over fake nodes and a real store."""

import uuid
from contextlib import asynccontextmanager

import pytest

from clusterhost.config import NetworksSection
from clusterhost.model.errors import (
    InvalidOperation,
    NetworkExists,
    NetworkNotFound,
    NetworkRefused,
    NodeUnreachable,
)
from clusterhost.service.networks import DEFINED, UNDEFINED, NetworkEvent
from compat.libvirt import messages as lv
from compat.libvirt.schema import BY_NAME
from tests.support.clusters import ANYONE, Front, running
from tests.support.fakelibvirt import domain_xml

DEFINE = BY_NAME["remote:DOMAIN_DEFINE_XML"]
GRACE = 3600.0
BLUE = """<network><name>blue</name>{}<forward mode='nat'/><ip address='10.1.0.1' prefix='24'><dhcp>
<range start='10.1.0.10' end='10.1.0.{}'/></dhcp></ip></network>"""
FIRST, SECOND = "02:00:0a:01:00:0a", "02:00:0a:01:00:0b"


class Plugged:
    """A front end with a network, and domains that have an interface on it."""

    def __init__(self, front: Front) -> None:
        self.front = front
        self.networking = front.world.networking

    async def network(self, last=99, uuid_=""):
        return await self.networking.networks.define(ANYONE, BLUE.format(uuid_, last), validate=False)

    async def domain(self, name, *macs, uuid_=None):
        one = uuid_ or uuid.uuid4().bytes
        nics = "".join(
            f"<interface type='network'>{f'<mac address={mac!r}/>' if mac else ''}<source network='blue'/></interface>"
            for mac in macs
        )
        xml = domain_xml(name, one).replace("</domain>", f"<devices>{nics}</devices></domain>")
        payload = lv.RemoteDomainDefineXmlArgs(xml).to_bytes()
        answer = await self.front.world.numbering.define(ANYONE, DEFINE, payload, xml)
        await self.front.quiet()
        return answer

    @property
    def leases(self):
        """MAC -> address and state."""
        rows = self.front.world.ledger.leases.values()
        return {row.mac: (row.address, row.state) for row in rows}


@asynccontextmanager
async def plugged(tmp_path):
    async with running(tmp_path) as front:
        yield Plugged(front)


async def test_an_interface_without_mac_gets_one_that_encodes_its_address_before_a_node_sees_it(tmp_path):
    async with plugged(tmp_path) as here:
        await here.network()
        assert (await here.domain("web", "")).ok
        assert here.leases == {FIRST: ("10.1.0.10", "bound")}
        domain = here.front.world.cluster.by_name("web")
        assert FIRST in here.front.machines[domain.node].guests[domain.uuid].xml


async def test_macs_that_encode_an_address_begin_with_the_configured_bytes(tmp_path):
    async with running(tmp_path, sections={"networks": NetworksSection(mac_prefix="0a:c1")}) as front:
        plugged = Plugged(front)
        await plugged.network()
        await plugged.domain("web", "")
        assert plugged.leases == {"0a:c1:0a:01:00:0a": ("10.1.0.10", "bound")}
        await plugged.domain("odd", "0a:c1:0a:01:00:2a")
        assert plugged.leases["0a:c1:0a:01:00:2a"] == ("10.1.0.42", "bound"), "what it encodes is free"


async def test_a_released_address_waits_for_its_mac_and_is_forgotten_after_its_grace(tmp_path):
    async with plugged(tmp_path) as here:
        await here.network()
        await here.domain("web", "")
        await here.front.undefine("web")
        await here.front.quiet()
        assert here.leases == {FIRST: ("10.1.0.10", "released")}
        await here.domain("mail", "")
        assert here.leases[SECOND] == ("10.1.0.11", "bound")
        here.front.now += GRACE - 1
        here.networking.addresses.forget_old()
        assert FIRST in here.leases
        await here.domain("web", FIRST)
        assert here.leases[FIRST] == ("10.1.0.10", "bound")
        await here.front.undefine("web")
        await here.front.quiet()
        here.front.now += GRACE
        here.networking.addresses.forget_old()
        assert set(here.leases) == {SECOND}


async def test_a_full_network_and_a_mac_that_is_anothers_refuse_a_definition_and_nothing_is_kept(tmp_path):
    async with plugged(tmp_path) as here:
        await here.network(last=10)
        await here.domain("web", "")
        with pytest.raises(NetworkRefused, match=r"has no free address in 10\.1\.0\.10") as full:
            await here.domain("mail", "")
        assert full.value.kind == "Exhausted"
        with pytest.raises(NetworkRefused, match=f"the MAC {FIRST} is domain web") as clash:
            await here.domain("mail", FIRST)
        assert clash.value.kind == "Clash"
        assert here.leases == {FIRST: ("10.1.0.10", "bound")}
        assert [domain.name for domain in here.front.world.cluster.domains()] == ["web"]


async def test_a_redefinition_without_an_interface_gives_its_address_back(tmp_path):
    async with plugged(tmp_path) as here:
        await here.network()
        one = uuid.uuid4().bytes
        await here.domain("web", FIRST, SECOND, uuid_=one)
        assert {state for _, state in here.leases.values()} == {"bound"}
        await here.domain("web", SECOND, uuid_=one)
        assert here.leases == {FIRST: ("10.1.0.10", "released"), SECOND: ("10.1.0.11", "bound")}


async def test_what_a_node_refuses_keeps_no_address(tmp_path):
    async with plugged(tmp_path) as here:
        await here.network()
        one = uuid.uuid4().bytes
        await here.domain("web", FIRST, uuid_=one)
        for name in here.front.machines:
            here.front.cut(name)
        with pytest.raises(NodeUnreachable):
            await here.domain("web", FIRST, SECOND, uuid_=one)
        assert here.leases[FIRST] == ("10.1.0.10", "bound")
        assert here.leases[SECOND] == ("10.1.0.11", "released")


async def test_leases_and_networks_outlive_a_crash_of_the_front_end(tmp_path):
    front = Front(tmp_path)
    await front.start()
    here = Plugged(front)
    net = await here.network()
    await here.domain("web", "")
    await front.crash()
    await front.start()
    here = Plugged(front)
    assert here.leases == {FIRST: ("10.1.0.10", "bound")}
    assert here.networking.networks.by_name("blue").row == net.row
    await here.domain("mail", "")
    assert here.leases[SECOND] == ("10.1.0.11", "bound")
    await front.stop()


async def test_half_a_match_of_name_and_uuid_is_refused_and_events_are_told(tmp_path):
    async with plugged(tmp_path) as here:
        told = []
        networks = here.networking.networks
        networks.listeners.append(told.append)
        net = await here.network()
        other = f"<uuid>{uuid.uuid4()}</uuid>"
        with pytest.raises(NetworkExists, match="network 'blue' already exists with uuid"):
            await here.network(uuid_=other)
        with pytest.raises(InvalidOperation, match="network 'blue' is not active"):
            await networks.destroy(ANYONE, net.uuid)
        await networks.undefine(ANYONE, net.uuid)
        with pytest.raises(NetworkNotFound, match="no network with matching name 'blue'"):
            networks.by_name("blue")
        assert told == [
            NetworkEvent(net.uuid, "blue", DEFINED),
            NetworkEvent(net.uuid, "blue", UNDEFINED),
        ]


async def test_a_network_that_is_made_anew_knows_the_guests_that_named_it(tmp_path):
    async with plugged(tmp_path) as here:
        net = await here.network()
        await here.domain("web", "")
        await here.networking.networks.undefine(ANYONE, net.uuid)
        assert here.leases == {}
        await here.network()
        assert here.leases == {FIRST: ("10.1.0.10", "bound")}


ISOLATED = "<interface type='network'><mac address='{}'/><source network='blue'/>{}</interface>"
SAYS = {True: "<port isolated='yes'/>", False: "<port isolated='no'/>", None: ""}


async def test_nodes_are_told_who_is_isolated_by_what_interface_and_network_say(tmp_path):
    async with plugged(tmp_path) as here:
        net = await here.network()
        one = uuid.uuid4().bytes

        async def isolated(said, by_network=False):
            """Of an interface that says so, in a network that does or does not."""
            port = "<port isolated='yes'/>" if by_network else ""
            text = BLUE.format(f"<uuid>{uuid.UUID(bytes=net.uuid)}</uuid>", 99).replace("<ip", f"{port}<ip")
            await here.networking.networks.define(ANYONE, text, validate=False)
            nic = ISOLATED.format(FIRST, SAYS[said])
            xml = domain_xml("web", one).replace("</domain>", f"<devices>{nic}</devices></domain>")
            await here.front.world.numbering.define(
                ANYONE, DEFINE, lv.RemoteDomainDefineXmlArgs(xml).to_bytes(), xml
            )
            await here.front.quiet()
            [(guest, _)] = here.networking.addresses.guests(net.uuid)
            return guest.isolated

        for said, by_network, expected in (
            (True, False, True),
            (None, False, False),
            (None, True, True),
            (False, True, False),
            (True, True, True),
            (False, False, False),
        ):
            assert await isolated(said, by_network) is expected, (said, by_network)
        assert await isolated(True)
        await here.front.undefine("web")
        await here.front.quiet()
        assert not any(here.front.world.ledger.meta.get(f"isolated {net.uuid.hex()} {FIRST}", "")), (
            "forgotten"
        )
