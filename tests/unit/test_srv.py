"""Where an agent finds the front end: the order of RFC 2782, one after the other, asked again when none is left."""

from __future__ import annotations

from collections import Counter

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from clusterhost.agent.agent import DEFAULT, _finder
from clusterhost.cli.endpoint import uri
from clusterhost.cli.main import cli
from clusterhost.config import AgentSettings, NamesSection, Settings
from clusterhost.control import keys
from clusterhost.control.discovery import Finder
from clusterhost.control.srv import BULK, CONTROL, LookupFailed, Offer, ordered
from clusterhost.service.outside import services_of

NUMBERS = st.integers(0, 3)
OFFERS = st.lists(st.builds(Offer, NUMBERS, NUMBERS, st.just(1), st.sampled_from("abcd")), max_size=8)


@given(OFFERS, st.randoms())
def test_all_offers_come_by_rising_priority(offers, random) -> None:
    found = ordered(offers, lambda most: random.randint(0, most))
    assert Counter(found) == Counter(offers)
    assert [offer.priority for offer in found] == sorted(offer.priority for offer in offers)


def test_of_one_priority_the_weight_is_the_share_of_draws() -> None:
    offers = [Offer(0, 1, 1, "one"), Offer(0, 3, 1, "three"), Offer(0, 0, 1, "none")]
    first = Counter(ordered(offers, lambda most, draw=draw: min(draw, most))[0].target for draw in range(5))
    assert first == {"none": 1, "one": 1, "three": 3}


class Zone:
    """A DNS server's answers, changed at will."""

    def __init__(self, **offers: list[Offer]) -> None:
        self.offers = offers
        self.asked = 0

    def look_up(self, service: str, domain: str, nameserver: str) -> list[Offer]:
        assert domain == "example.test"
        self.asked += service == CONTROL
        found = self.offers[{CONTROL: "control", BULK: "bulk"}[service]]
        if not found:
            raise LookupFailed("nothing")
        return found

    def finder(self) -> Finder:
        return Finder("srv:example.test", "", look_up=self.look_up, draw=lambda most: 0)


ONE, TWO = Offer(0, 0, 1600, "one.", ("192.0.2.1", "2001:db8::1")), Offer(10, 0, 1600, "two.")


async def test_machines_are_tried_one_after_the_other_and_then_looked_up_again() -> None:
    zone = Zone(control=[TWO, ONE], bulk=[Offer(0, 0, 1701, "one."), Offer(0, 0, 1702, "two.")])
    finder = zone.finder()
    first = [
        ("tcp://192.0.2.1:1600", "tcp://192.0.2.1:1701"),
        ("tcp://[2001:db8::1]:1600", "tcp://[2001:db8::1]:1701"),
        ("tcp://two:1600", "tcp://two:1702"),
    ]
    assert [await finder.next() for _ in first] == first
    assert zone.asked == 1
    zone.offers["control"] = [TWO]
    assert await finder.next() == first[2]
    assert (zone.asked, finder.last) == (2, "tcp://two:1600")


async def test_after_a_connection_dns_is_asked_again() -> None:
    zone = Zone(control=[ONE], bulk=[Offer(0, 0, 1701, "one.")])
    finder = zone.finder()
    await finder.next()
    finder.connected()
    await finder.next()
    assert zone.asked == 2


async def test_a_machine_without_both_services_is_none() -> None:
    zone = Zone(control=[ONE], bulk=[Offer(0, 0, 1701, "two.")])
    with pytest.raises(LookupFailed, match="no machine offers both"):
        await zone.finder().next()


async def test_what_is_configured_is_dialled_without_dns() -> None:
    zone = Zone()
    finder = Finder("tcp://192.0.2.1:1", "tcp://192.0.2.1:2", look_up=zone.look_up)
    assert finder.last == "tcp://192.0.2.1:1"
    assert [await finder.next(), await finder.next()] == [("tcp://192.0.2.1:1", "tcp://192.0.2.1:2")] * 2


async def test_an_agent_goes_by_its_settings_then_by_its_token() -> None:
    token = keys.read_token(keys.make_token("n1", "srv:x.test", "", "k" * 40, "s" * 40))
    assert _finder(AgentSettings(node="n1"), token).looks_up
    assert await _finder(AgentSettings(node="n1"), None).next() == DEFAULT
    given = AgentSettings(node="n1", control="tcp://a:1", bulk="tcp://a:2")
    assert await _finder(given, token).next() == ("tcp://a:1", "tcp://a:2")


def test_each_machine_of_the_front_end_offers_all_services() -> None:
    names = NamesSection(
        server="192.0.2.53", key_file="/k", zones="x.test", domain="x.test", hosts="f1.x.test f2.x.test"
    )
    found = {(one.name, one.target, one.port, one.priority) for one in services_of(Settings(names=names))}
    assert found == {
        (f"{service}.x.test", host, port, priority)
        for host, priority in (("f1.x.test", 0), ("f2.x.test", 10))
        for service, port in (("_libvirt._tcp", 22), (CONTROL, 16600), (BULK, 16601))
    }
    assert services_of(Settings()) == ()


@pytest.mark.parametrize(
    ("port", "transport", "expected"),
    [
        (22, None, "qemu+ssh://f/system"),
        (2222, "ssh", "qemu+ssh://f:2222/system"),
        (16509, None, "qemu+tcp://f/system"),
        (16514, None, "qemu+tls://f/system"),
        (4433, None, "qemu+tls://f:4433/system"),
    ],
)
def test_the_port_of_an_endpoint_says_how_to_reach_it(port, transport, expected) -> None:
    assert uri("f", port, transport) == expected


def test_a_domain_that_tells_of_no_cluster_ends_with_a_sentence() -> None:
    done = CliRunner().invoke(cli, ["endpoint", "--domain", "x.invalid", "--nameserver", "127.0.0.1:1"])
    assert done.exit_code == 3
    assert "no SRV record _libvirt._tcp.x.invalid. was found" in done.output
