"""What a guest is told of its networks, over fake nodes and a real store: by mode, and where there is nothing."""

from __future__ import annotations

import uuid

import pytest

from clusterhost.model.errors import DomainNotFound
from clusterhost.service.admin import METHODS
from compat.libvirt import messages as lv
from compat.libvirt.schema import BY_NAME
from tests.support.clusters import ANYONE, Front, running
from tests.support.fakelibvirt import domain_xml

DEFINE = BY_NAME["remote:DOMAIN_DEFINE_XML"]
MAC = "52:54:00:00:00:{:02x}"
IP = "<ip address='10.1.0.1' prefix='20'><dhcp><range start='10.1.0.10' end='10.1.0.99'/></dhcp></ip>"
SIX = "<ip family='ipv6' address='fd00::1' prefix='64'/>"


async def told(front: Front, *networks: str, source: str = "") -> list[dict[str, object]]:
    """A domain with an interface on each of these networks."""
    names = []
    for number, document in enumerate(networks, 1):
        net = await front.world.networking.networks.define(ANYONE, document, validate=False)
        await front.world.networking.networks.start(ANYONE, net.uuid)
        names.append(f"<mac address='{MAC.format(number)}'/><source network='{net.name}'/>")
    devices = "".join(f"<interface type='network'>{inner}</interface>" for inner in names) + source
    xml = domain_xml("g", uuid.UUID(int=7).bytes).replace(
        "</domain>", f"<devices>{devices}</devices></domain>"
    )
    payload = lv.RemoteDomainDefineXmlArgs(xml).to_bytes()
    await front.world.numbering.define(ANYONE, DEFINE, payload, xml)
    await front.quiet()
    answer = await METHODS["domain.interfaces"](front.world, {"domain": "g"}, lambda *_: None)
    assert isinstance(answer, dict)
    assert (answer["domain"], answer["uuid"]) == ("g", str(uuid.UUID(int=7)))
    found: list[dict[str, object]] = answer["interfaces"]
    return found


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        ("<forward mode='nat'/>", {"gateways": ["10.1.0.1"], "dns": ["10.1.0.1"], "search": []}),
        ("<forward mode='route'/><mtu size='1280'/>", {"gateways": ["10.1.0.1"], "mtu": 1280}),
        ("<forward mode='open'/>", {"gateways": ["10.1.0.1"]}),
        ("", {"gateways": [], "dns": ["10.1.0.1"]}),
        ("<dns enable='no'/><domain name='d.lan'/>", {"dns": [], "search": ["d.lan"]}),
    ],
)
async def test_a_guest_is_told_what_dhcp_would_tell_it(tmp_path, inner, expected):
    async with running(tmp_path) as front:
        (row,) = await told(front, f"<network><name>blue</name>{inner}{IP}</network>")
    assert row["mac"] == MAC.format(1)
    assert row["network"] == "blue"
    assert len(row["addresses"]) == 1
    assert row["addresses"][0].startswith("10.1.0.")
    assert row["addresses"][0].endswith("/20")
    assert {key: row[key] for key in expected} == expected


async def test_a_family_without_dhcp_is_left_to_the_routers(tmp_path):
    async with running(tmp_path) as front:
        (row,) = await told(front, f"<network><name>blue</name><forward mode='nat'/>{IP}{SIX}</network>")
    assert [address.partition(".")[0] for address in row["addresses"]] == ["10"]
    assert row["gateways"] == row["dns"] == ["10.1.0.1"]


async def test_a_network_without_addresses_has_none_to_tell(tmp_path):
    async with running(tmp_path) as front:
        (row,) = await told(front, "<network><name>blue</name></network>")
    assert (row["addresses"], row["gateways"], row["dns"]) == ([], [], [])
    assert "dhcp4" not in row


async def test_on_somebody_elses_network_a_guest_asks_for_its_address(tmp_path):
    own = f"<interface type='bridge'><mac address='{MAC.format(9)}'/><source bridge='br0'/></interface>"
    lan = "<network><name>lan</name><forward mode='bridge'/><bridge name='br-lan'/></network>"
    async with running(tmp_path) as front:
        rows = await told(front, lan, source=own)
    assert rows == [
        {"mac": MAC.format(1), "network": "lan", "dhcp4": True},
        {"mac": MAC.format(9), "network": "", "dhcp4": True},
    ]


async def test_a_domain_that_is_not_there_is_told_so(tmp_path):
    async with running(tmp_path) as front:
        with pytest.raises(DomainNotFound):
            await METHODS["domain.interfaces"](front.world, {"domain": "g"}, lambda *_: None)
