"""Names outside with a real BIND 9: it holds exactly our names, whatever happens to it and to them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import pytest

from netmgr.names.plan import steps_to
from netmgr.names.publish import Names, Status, pause
from netmgr.names.records import Naming, Nodes, Service, names_of
from netmgr.names.update import Connection, Key, KeyUnusable, Server, ServerUnreachable, read_key
from netmgr.wanted import WantedDns, WantedGuest, WantedNetwork, WantedSrv
from tests.support.bind import FOREIGN_NAMES, FORWARD, REVERSE, REVERSE6, SECRET, Bind, keygen, needs_bind

pytestmark = needs_bind

OWNER = "6a0f1f4e-5d0c-4b57-9d3e-0c4d3a1b2c3d"
ZONES = (FORWARD, REVERSE, REVERSE6)
NAMING = Naming.of(ZONES, FORWARD)


@pytest.fixture
def bind(tmp_path: Path) -> Iterator[Bind]:
    server = Bind(tmp_path)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def guests(**addresses: str) -> Nodes:
    """What is wanted for guests of these names: addresses with commas between."""
    return wanted_of(
        tuple(WantedGuest("", tuple(text.split(",")), (name,)) for name, text in addresses.items())
    )


def wanted_of(
    found: tuple[WantedGuest, ...], dns: WantedDns | None = None, services: tuple[Service, ...] = ()
) -> Nodes:
    network = WantedNetwork(
        OWNER, "n", 1, 1, "virbr1", "52:54:00:00:00:01", guests=found, dns=dns or WantedDns()
    )
    return names_of([network], NAMING, services).nodes


def expected(nodes: Nodes) -> Mapping[str, set[str]]:
    return {
        name: {f"{kind} {data}" for kind, rrset in node.items() for data in rrset.data}
        for name, node in nodes.items()
    }


def names_at(bind: Bind, key: Key | None = None, resync: float = 60.0) -> Names:
    return Names(bind.server(key), ZONES, OWNER, time.time, resync=resync)


async def settled(names: Names, nodes: Nodes) -> Status:
    names.changed(nodes)
    return await names.sync()


@contextlib.asynccontextmanager
async def running(names: Names) -> AsyncIterator[None]:
    task = asyncio.create_task(names.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(true: Callable[[], bool], seconds: float = 15.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.05)


async def test_starts_moves_renames_and_removals_end_with_exactly_our_names(bind: Bind) -> None:
    names = names_at(bind)
    for nodes in (
        guests(web="192.168.122.5,fd00::5", db="192.168.122.6"),
        guests(web="192.168.122.5,fd00::5", db="192.168.122.7", app="192.168.122.6"),  # one moved, one came
        guests(web2="192.168.122.5,fd00::5", db="192.168.122.7", app="192.168.122.6"),  # renamed
        guests(db="192.168.122.7,192.168.122.9"),
        guests(),
    ):
        status = await settled(names, nodes)
        assert (status.pending, status.error, status.taken) == (0, "", ())
        assert bind.ours(OWNER) == expected(nodes)
    assert set(bind.holds()) == FOREIGN_NAMES


async def test_host_entries_and_services_are_there_too(bind: Bind) -> None:
    dns = WantedDns(
        hosts=(("192.168.122.1", ("gate",)),),
        srvs=(WantedSrv("ldap", "tcp", target="gate", port=389, priority=1),),
    )
    nodes = wanted_of((), dns, (Service("_libvirt._tcp.cluster.test", "front.cluster.test", 16509),))
    await settled(names_at(bind), nodes)
    assert bind.ours(OWNER) == expected(nodes)
    assert "0 0 16509 front.cluster.test." in bind.dig("SRV", "_libvirt._tcp.cluster.test", "+short")
    assert bind.dig("-x", "192.168.122.1", "+short").split() == ["gate.cluster.test."]


async def test_texts_are_there_change_and_go(bind: Bind) -> None:
    names = names_at(bind)
    first = WantedDns(txts=(("motd", 'say "hi"'), ("long", "a" * 300), ("motd", "gr\u00fcn; really")))
    for dns in (first, WantedDns(txts=(("motd", "bye"),)), WantedDns(hosts=(("192.168.122.1", ("motd",)),))):
        nodes = wanted_of((), dns)
        status = await settled(names, nodes)
        assert (status.pending, status.error) == (0, "")
        assert bind.ours(OWNER) == expected(nodes)
        before = bind.dig("SOA", "cluster.test", "+short")
        # Another run finds everything as it shall be.
        await settled(names_at(bind), nodes)
        assert bind.dig("SOA", "cluster.test", "+short") == before
    await settled(names, {})
    assert set(bind.holds()) == FOREIGN_NAMES


def test_a_server_is_asked_within_ten_seconds_while_names_wait() -> None:
    assert [pause(failures, waiting=True) for failures in (1, 2, 3, 4, 5, 99)] == [1, 2, 4, 8, 10, 10]
    assert [pause(failures, waiting=False) for failures in (1, 6, 7, 99)] == [1, 32, 60, 60]


async def test_a_name_of_somebody_else_is_left_alone_and_reported_until_it_is_free(bind: Bind) -> None:
    before = bind.holds()
    names = names_at(bind)
    nodes = guests(www="192.168.122.5", mail="192.168.122.6", app="192.168.122.7")
    status = await settled(names, nodes)
    assert status.taken == ("mail.cluster.test.", "www.cluster.test.")
    assert (status.pending, status.error) == (0, "")
    assert {name: bind.holds()[name] for name in before} == before
    assert "5.122.168.192.in-addr.arpa." not in bind.holds()
    bind.by_hand("update delete www.cluster.test.")
    status = await names.sync()
    assert status.taken == ("mail.cluster.test.",)
    assert bind.holds()["www.cluster.test."] >= {"A 192.168.122.5"}
    assert bind.holds()["5.122.168.192.in-addr.arpa."] >= {"PTR www.cluster.test."}


async def test_a_name_that_somebody_takes_in_between_stays_his(bind: Bind) -> None:
    nodes = guests(**{f"vm{number}": f"10.0.0.{number}" for number in range(1, 9)})
    with Connection(bind.server()) as connection:
        plan = steps_to(FORWARD, nodes, connection.transfer(FORWARD)[0], OWNER)
        bind.by_hand(
            "update add vm3.cluster.test. 60 A 192.0.2.9", "update add vm8.cluster.test. 60 MX 1 ns1"
        )
        races = connection.send(FORWARD, plan.updates)
    assert [update.name for update in races] == ["vm3.cluster.test.", "vm8.cluster.test."]
    names = names_at(bind)
    status = await settled(names, nodes)
    assert (status.taken, status.pending) == (("vm3.cluster.test.", "vm8.cluster.test."), 0)
    assert bind.holds()["vm3.cluster.test."] == {"A 192.0.2.9"}
    assert bind.ours(OWNER) == {
        name: data for name, data in expected(nodes).items() if name not in status.taken
    }


async def test_a_name_whose_mark_somebody_takes_away_is_his_from_then_on(bind: Bind) -> None:
    nodes = guests(web="10.0.0.1")
    await settled(names := names_at(bind), nodes)
    with Connection(bind.server()) as connection:
        plan = steps_to(FORWARD, {}, connection.transfer(FORWARD)[0], OWNER)
        bind.by_hand("update delete web.cluster.test. TXT")
        assert connection.send(FORWARD, plan.updates) == list(plan.updates)
    assert (await names.sync()).taken == ("web.cluster.test.",)
    assert bind.holds()["web.cluster.test."] == {"A 10.0.0.1"}


async def test_names_of_another_cluster_in_the_same_zone_are_its_own(bind: Bind) -> None:
    await settled(names_at(bind), guests(web="192.168.122.5"))
    other = Names(bind.server(), ZONES, "another-cluster", time.time)
    assert (await settled(other, guests(web="192.168.122.9", db="192.168.122.6"))).taken == (
        "web.cluster.test.",
    )
    await settled(other, guests())
    assert bind.ours(OWNER) == expected(guests(web="192.168.122.5"))
    assert set(bind.holds()) == FOREIGN_NAMES | set(bind.ours(OWNER))


async def test_while_the_server_is_down_names_wait_and_the_newest_state_is_repaired(bind: Bind) -> None:
    names = names_at(bind)
    async with running(names):
        names.changed(guests(web="192.168.122.5", old="192.168.122.6"))
        await until(lambda: names.status.synced > 0)
        bind.stop()
        names.changed(guests(web="192.168.122.7", old="192.168.122.6"))
        await until(lambda: bool(names.status.error))
        down = names.status
        assert down.pending == 3  # web, and the reverse names of its old and new address
        assert "Connection refused" in down.error
        assert 0 < down.synced <= down.since
        for last in range(10, 60):
            names.changed(guests(web=f"192.168.122.{last}"))
        assert (
            names.status.pending == 5
        )  # old and its reverse name go, too: the difference counts, not the changes
        bind.start()
        await until(lambda: not names.status.error)
    assert (names.status.pending, names.status.since) == (0, 0.0)
    assert bind.ours(OWNER) == expected(guests(web="192.168.122.59"))


async def test_a_change_is_outside_at_once(bind: Bind) -> None:
    names = names_at(bind)
    async with running(names):
        names.changed(guests(web="192.168.122.5"))
        await until(lambda: names.status.synced > 0)
        names.changed(guests(web="192.168.122.6"))
        await until(lambda: "192.168.122.6" in bind.dig("A", "web.cluster.test", "+short"), 3)


async def test_names_of_an_earlier_run_are_tidied_up(bind: Bind) -> None:
    await settled(names_at(bind), guests(web="192.168.122.5", gone="192.168.122.6"))
    await settled(names_at(bind), guests(web="192.168.122.5"))
    assert bind.ours(OWNER) == expected(guests(web="192.168.122.5"))


async def test_drift_is_repaired(bind: Bind) -> None:
    names = names_at(bind, resync=0.2)
    nodes = guests(web="192.168.122.5,fd00::5", db="192.168.122.6")
    async with running(names):
        names.changed(nodes)
        await until(lambda: names.status.synced > 0)
        bind.by_hand("update delete web.cluster.test.")
        bind.by_hand(
            "update delete db.cluster.test. A",
            "update add db.cluster.test. 60 A 192.0.2.99",
            'update add db.cluster.test. 60 TXT "a note"',
        )
        bind.by_hand("update delete 6.122.168.192.in-addr.arpa. PTR")
        wanted = {**expected(nodes), "db.cluster.test.": {"A 192.168.122.6", 'TXT "a note"'}}
        await until(lambda: bind.ours(OWNER) == wanted)


async def test_a_zone_that_did_not_change_is_not_read_again(bind: Bind) -> None:
    names = names_at(bind)
    await settled(names, guests(web="192.168.122.5"))
    await settled(names, guests(web="192.168.122.6", db="192.168.122.7"))
    await names.sync()
    transfers = (bind.directory / "log").read_text().count("AXFR started")
    assert transfers == len(ZONES)
    bind.by_hand("update add more.cluster.test. 60 A 192.0.2.9")
    await names.sync()
    assert (bind.directory / "log").read_text().count("AXFR started") == transfers + 1


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (Key("ours", "d3Jvbmc="), "the key ours has another secret at the server"),
        (Key("unknown", "d3Jvbmc="), "the server does not know the key unknown"),
        (Key("powerless", ""), "to the key powerless: REFUSED"),
    ],
)
async def test_a_key_that_may_not_is_refused_with_the_reason(bind: Bind, key: Key, said: str) -> None:
    key = Key(key.name, key.secret or bind.secrets[key.name])
    status = await settled(names_at(bind, key), guests(web="192.168.122.5"))
    assert said in status.error
    assert status.pending == 2
    assert status.since > 0
    assert key.secret not in repr(names_at(bind, key)._server)
    assert set(bind.holds()) == FOREIGN_NAMES


async def test_a_key_of_another_algorithm_does(tmp_path: Path) -> None:
    bind = Bind(tmp_path, 'allow-update { key "long"; }; allow-transfer { key "ours"; key "long"; };')
    try:
        bind.start()
        names = names_at(bind, Key("long", bind.secrets["long"], "hmac-sha512"))
        assert (await settled(names, guests(web="192.168.122.5"))).error == ""
        assert bind.ours(OWNER) == expected(guests(web="192.168.122.5"))
    finally:
        bind.stop()


async def test_one_zone_that_refuses_is_not_in_the_way_of_others(bind: Bind) -> None:
    zones = (*ZONES, "elsewhere.test.")
    names = Names(bind.server(), zones, OWNER, time.time)
    status = await settled(names, guests(web="192.168.122.5"))
    assert "elsewhere.test." in status.error
    assert bind.ours(OWNER) == expected(guests(web="192.168.122.5"))


async def test_a_server_that_refuses_transfers_is_asked_name_by_name(tmp_path: Path) -> None:
    bind = Bind(tmp_path, 'allow-update { key "powerless"; key "ours"; }; allow-transfer { key "ours"; };')
    try:
        bind.start()
        names = names_at(bind, Key("powerless", bind.secrets["powerless"]))
        status = await settled(names, guests(web="192.168.122.5", www="192.168.122.6", db="192.168.122.7"))
        assert (status.error, status.taken) == ("", ("www.cluster.test.",))
        bind.by_hand("update delete web.cluster.test. A")
        await settled(names, guests(web="192.168.122.5", app="192.168.122.7"))
        assert bind.ours(OWNER) == expected(guests(web="192.168.122.5", app="192.168.122.7"))
    finally:
        bind.stop()


async def test_a_thousand_names_are_made_and_repaired_in_one_round(bind: Bind) -> None:
    def many(domain: str) -> Nodes:
        return guests(**{f"vm{number}-{domain}": f"fd00::{number:x}" for number in range(1, 1001)})

    names = names_at(bind)
    for what, nodes in (("made", many("a")), ("renamed", many("b"))):
        start = time.monotonic()
        status = await settled(names, nodes)
        print(f"1000 names and their reverse names {what} in {time.monotonic() - start:.2f} s")
        assert (status.error, status.pending) == ("", 0)
        assert bind.ours(OWNER) == expected(nodes)
    bind.by_hand(*(f"update delete vm{number}-b.cluster.test." for number in range(1, 501)))
    start = time.monotonic()
    await names.sync()
    print(f"500 of them repaired in {time.monotonic() - start:.2f} s")
    start = time.monotonic()
    await names.sync()
    print(f"nothing to do: {(time.monotonic() - start) * 1000:.1f} ms")
    assert bind.ours(OWNER) == expected(nodes)


def test_an_answer_that_does_not_come_ends_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        server = Server("127.0.0.1", Key("ours", "c2VjcmV0"), deaf.getsockname()[1], timeout=0.3)
        start = time.monotonic()
        with (
            Connection(server) as connection,
            pytest.raises(ServerUnreachable, match=r"no answer within 0\.3 s"),
        ):
            connection.serial(FORWARD)
        assert time.monotonic() - start < 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no key"),
        ('key "k" { algorithm hmac-sha256; };', "has no key"),
        ('key "k" { algorithm hmac-md4; secret "c2VjcmV0"; };', "algorithm is hmac-md4"),
        ('key "k" { algorithm hmac-sha256; secret "!"; };', "not usable"),
    ],
)
def test_a_file_without_a_usable_key_is_refused_with_the_reason(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "key").write_text(text)
    with pytest.raises(KeyUnusable, match=said):
        read_key(tmp_path / "key")


def test_the_key_file_of_tsig_keygen_is_read(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(text := keygen("front", "hmac-sha384"))
    assert read_key(tmp_path / "key") == Key("front", SECRET.findall(text)[0], "hmac-sha384")
