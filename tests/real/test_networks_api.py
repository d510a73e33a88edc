"""Shown by 3 and 7: the network API at the endpoint with stock virsh: leases, interfaces that come and go, ports."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from compat.libvirt import messages
from compat.libvirt.constants import VirErrorNumber
from compat.libvirt.schema import BY_NAME
from tests.support.rawclient import RawClient
from tests.support.stock import Outcome, Virsh, eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

NAT = """<network><name>{name}</name><forward mode='nat'/><ip address='10.{number}.0.1' prefix='24'><dhcp>
<range start='10.{number}.0.10' end='10.{number}.0.{last}'/></dhcp></ip></network>"""

DESCRIPTION, TITLE, ELEMENT = range(3)
LIVE, CONFIG = 1, 2
METADATA_CHANGE = 1
METADATA_EVENT = BY_NAME["remote:NETWORK_EVENT_CALLBACK_METADATA_CHANGE"]

Make = Callable[..., str]


@pytest.fixture
def network(cluster: RealCluster, tmp_path: Path) -> Iterator[Make]:
    """network("blue", 80, last=20) defines and starts 10.80.0.0/24; it is gone after the test."""
    made: list[str] = []

    def define(name: str, number: int, *, last: int = 99) -> str:
        made.append(name)
        path = tmp_path / f"{name}.xml"
        path.write_text(NAT.format(name=name, number=number, last=last))
        cluster.virsh("net-define", str(path))
        cluster.virsh("net-start", name)
        return name

    yield define
    for name in made:
        cluster.virsh.run("net-destroy", name)
        cluster.virsh.run("net-undefine", name)


def interfaces(virsh: Virsh, name: str, *flags: str) -> list[list[str]]:
    """Rows of domiflist: link, type, source, model, MAC."""
    return [line.split() for line in virsh("domiflist", name, *flags).splitlines()]


def leases(virsh: Virsh, network: str, *words: str) -> dict[str, str]:
    """MAC -> address of net-dhcp-leases."""
    rows = (line.split() for line in virsh("net-dhcp-leases", network, *words).splitlines())
    return {row[2]: row[4] for row in rows if row}


def encoded(mac: str) -> str:
    """The address that a MAC of ours encodes."""
    return str(ip_address(bytes.fromhex(mac.replace(":", ""))[2:]))


def nic(network: str, mac: str = "") -> str:
    """An interface's XML."""
    address = f"<mac address='{mac}'/>" if mac else ""
    return (
        f"<interface type='network'>{address}<source network='{network}'/><model type='virtio'/></interface>"
    )


def test_leases_and_addresses_of_interfaces_are_those_of_the_table(
    cluster: RealCluster, network: Make, make: Make
) -> None:
    virsh = cluster.virsh
    network("blue", 81)
    make("one", start=True, devices=nic("blue"))
    make("two", devices=nic("blue"))
    ((link, kind, source, _, mac),) = interfaces(virsh, "one")
    assert (kind, source) == ("network", "blue")
    assert re.fullmatch(r"vnet\d+", link)
    assert virsh("domifaddr", "one").split() == [link, mac, "ipv4", f"{encoded(mac)}/24"]
    assert virsh("domifaddr", "one", "--source", "lease").split()[-1] == f"{encoded(mac)}/24"
    row = virsh("net-dhcp-leases", "blue", "--mac", mac).split()
    assert row[2:] == [mac, "ipv4", f"{encoded(mac)}/24", "one", "-"]
    until = time.mktime(time.strptime(" ".join(row[:2]), "%Y-%m-%d %H:%M:%S"))
    assert abs(until - time.time() - 3600) < 60
    other = interfaces(virsh, "two")[0][4]
    assert leases(virsh, "blue") == {each: f"{encoded(each)}/24" for each in (mac, other)}
    assert virsh("net-dhcp-leases", "blue", "--mac", "52:54:00:00:00:01") == ""
    assert "invalid MAC address: zz" in virsh.fails("net-dhcp-leases", "blue", "--mac", "zz")
    assert "domain is not running" in virsh.fails("domifaddr", "two")
    assert "connections='1'" in virsh("net-dumpxml", "blue")


def test_an_interface_that_comes_while_it_runs_has_an_address_until_it_goes(
    cluster: RealCluster, network: Make, make: Make, tmp_path: Path
) -> None:
    virsh = cluster.virsh
    network("blue", 82)
    make("one", start=True, devices=nic("blue"))
    first = interfaces(virsh, "one")[0][4]
    virsh("attach-interface", "one", "network", "blue", "--model", "virtio", "--live")
    live = [row[4] for row in interfaces(virsh, "one")]
    assert len(live) == 2
    second = live[1]
    assert leases(virsh, "blue") == {each: f"{encoded(each)}/24" for each in (first, second)}
    assert f"{encoded(second)}/24" in virsh("domifaddr", "one")
    virsh("attach-interface", "one", "network", "blue", "--mac", "52:54:00:82:00:01", "--config")
    assert set(leases(virsh, "blue")) == {first, second, "52:54:00:82:00:01"}
    virsh("detach-interface", "one", "network", "--mac", "52:54:00:82:00:01", "--config")
    eventually(
        lambda: set(leases(virsh, "blue")) == {first, second}, 10, "the lease of the definition is gone"
    )
    # The guest lets go of it only when it is up: until then the device stays.
    end = time.monotonic() + 40
    while len(interfaces(virsh, "one")) == 2 and time.monotonic() < end:
        virsh.run("detach-interface", "one", "network", "--mac", second, "--live")
        time.sleep(1)
    eventually(lambda: set(leases(virsh, "blue")) == {first}, 10, "the lease of the device is gone")


def test_an_interface_of_one_run_gives_its_address_back_at_its_end(
    cluster: RealCluster, network: Make, make: Make
) -> None:
    virsh = cluster.virsh
    network("blue", 83)
    make("one", start=True)
    virsh("attach-interface", "one", "network", "blue", "--live")
    assert len(leases(virsh, "blue")) == 1
    virsh("destroy", "one")
    eventually(lambda: not leases(virsh, "blue"), 10, "no lease")


def test_a_host_entry_moves_an_address_or_is_refused(cluster: RealCluster, network: Make, make: Make) -> None:
    virsh = cluster.virsh
    network("blue", 85)
    make("one", start=True, devices=nic("blue"))
    make("two", devices=nic("blue"))
    one, two = (interfaces(virsh, name)[0][4] for name in ("one", "two"))
    update = ("net-update", "blue", "add", "ip-dhcp-host")
    taken = f"<host mac='52:54:00:85:00:01' ip='{encoded(two)}'/>"
    text = virsh.fails(*update, taken, "--live", "--config")
    assert f"the address {encoded(two)} is bound to two" in text
    assert taken.split()[1] not in virsh("net-dumpxml", "blue", "--inactive")
    assert taken.split()[1] not in virsh("net-dumpxml", "blue")
    virsh(*update, f"<host mac='{one}' ip='10.85.0.200'/>", "--live", "--config")
    assert leases(virsh, "blue") == {one: "10.85.0.200/24", two: f"{encoded(two)}/24"}
    assert "10.85.0.200/24" in virsh("domifaddr", "one")
    virsh("net-destroy", "blue")
    assert leases(virsh, "blue") == {}
    virsh("net-start", "blue")
    assert leases(virsh, "blue")[one] == "10.85.0.200/24"


def test_a_network_made_anew_has_the_guests_that_named_it(
    cluster: RealCluster, network: Make, make: Make
) -> None:
    virsh = cluster.virsh
    network("blue", 90)
    make("one", devices=nic("blue"))
    make("two", start=True, devices=nic("blue"))
    before = leases(virsh, "blue")
    assert len(before) == 2
    virsh("net-destroy", "blue")
    virsh("net-undefine", "blue")
    network("blue", 90)
    eventually(lambda: leases(virsh, "blue") == before, 5, "the same addresses again")
    virsh("start", "one")
    assert set(before) >= {row[4] for row in interfaces(virsh, "one")}


def test_an_interface_can_be_changed_while_it_runs(
    cluster: RealCluster, network: Make, make: Make, tmp_path: Path
) -> None:
    virsh = cluster.virsh
    network("blue", 91)
    network("red", 92)
    make("one", start=True, devices=nic("blue"))
    mac = interfaces(virsh, "one")[0][4]
    live = virsh("dumpxml", "one", "--xpath", "//devices/interface")
    path = tmp_path / "nic.xml"
    path.write_text(live.replace('network="blue"', 'network="red"'))
    virsh("update-device", "one", str(path), "--live")
    assert interfaces(virsh, "one")[0][2] == "red"
    eventually(lambda: set(leases(virsh, "red")) == {mac}, 5, "it has an address there")
    assert leases(virsh, "red")[mac].startswith("10.92.")
    assert "10.92." in virsh("domifaddr", "one")
    # Its definition is on the first network yet.
    assert set(leases(virsh, "blue")) == {mac}
    virsh("destroy", "one")
    eventually(lambda: not leases(virsh, "red"), 10, "only the definition's is left")
    assert set(leases(virsh, "blue")) == {mac}


def test_a_renamed_guest_has_its_new_name_in_the_table(
    cluster: RealCluster, network: Make, make: Make, gone: Callable[[str], str]
) -> None:
    virsh = cluster.virsh
    network("blue", 93)
    make("one", devices=nic("blue"))
    virsh("domrename", "one", gone("uno"))
    eventually(lambda: "uno" in virsh("net-dhcp-leases", "blue").split(), 5, "the table has the new name")


def test_metadata_is_kept_and_told(cluster: RealCluster, network: Make) -> None:
    network("blue", 86)
    client = RawClient(cluster.state / "front" / "libvirt-sock")
    net = client.ok("remote:NETWORK_LOOKUP_BY_NAME", messages.RemoteNetworkLookupByNameArgs("blue")).net
    other = client.ok(
        "remote:CONNECT_NETWORK_EVENT_REGISTER_ANY",
        messages.RemoteConnectNetworkEventRegisterAnyArgs(METADATA_CHANGE, net),
    ).callbackID

    def put(kind: int, text: str | None, flags: int, key: str | None = None, uri: str | None = None) -> None:
        args = messages.RemoteNetworkSetMetadataArgs(net, kind, text, key, uri, flags)
        client.ok("remote:NETWORK_SET_METADATA", args)

    def got(kind: int, flags: int, uri: str | None = None) -> str:
        args = messages.RemoteNetworkGetMetadataArgs(net, kind, uri, flags)
        return str(client.ok("remote:NETWORK_GET_METADATA", args).metadata)

    put(TITLE, "Blue", LIVE | CONFIG)
    put(DESCRIPTION, "of the sky", LIVE)
    put(ELEMENT, "<owner>me</owner>", CONFIG, "x", "urn:x")
    assert got(TITLE, LIVE) == got(TITLE, CONFIG) == "Blue"
    assert got(DESCRIPTION, 0) == "of the sky"
    assert "<owner>me</owner>" in got(ELEMENT, CONFIG, "urn:x")
    for kind, flags, uri in ((DESCRIPTION, CONFIG, None), (ELEMENT, LIVE, "urn:x")):
        args = messages.RemoteNetworkGetMetadataArgs(net, kind, uri, flags)
        assert (
            client.error("remote:NETWORK_GET_METADATA", args).code == VirErrorNumber.ERR_NO_NETWORK_METADATA
        )
    assert "<title>Blue</title>" in cluster.virsh("net-dumpxml", "blue")
    assert "<x:owner" in cluster.virsh("net-dumpxml", "blue", "--inactive")
    kinds = []
    for _ in range(3):
        event = client.until(lambda event: getattr(event, "procedure", 0) == METADATA_EVENT.number)
        told = messages.RemoteNetworkEventCallbackMetadataChangeMsg.from_bytes(event.payload)
        assert (told.callbackID, told.net.uuid) == (other, net.uuid)
        kinds.append((told.type, told.nsuri))
    assert kinds == [(TITLE, None), (DESCRIPTION, None), (ELEMENT, "urn:x")]
    client.close()


def test_who_may_only_read_asks_and_changes_nothing(cluster: RealCluster, network: Make, make: Make) -> None:
    network("blue", 87)
    make("one", start=True, devices=nic("blue"))
    mac = interfaces(cluster.virsh, "one")[0][4]

    def asks(*words: str) -> Outcome:
        return cluster.virsh.run("--readonly", *words)

    for words in (
        ("net-list", "--all"),
        ("net-info", "blue"),
        ("net-dumpxml", "blue"),
        ("net-port-list", "blue"),
    ):
        assert asks(*words) == cluster.virsh.run(*words)
    assert mac in asks("net-dhcp-leases", "blue").out
    assert encoded(mac) in asks("domifaddr", "one").out
    changes: tuple[tuple[str, ...], ...] = (
        ("net-destroy", "blue"),
        ("net-undefine", "blue"),
        ("net-autostart", "blue"),
        (
            "net-update",
            "blue",
            "add",
            "ip-dhcp-host",
            "<host mac='52:54:00:85:00:01' ip='10.87.0.5'/>",
            "--live",
        ),
        ("attach-interface", "one", "network", "blue", "--config"),
    )
    for change in changes:
        found = asks(*change)
        assert found.code == 1
        assert "operation forbidden: read only access prevents" in found.err
    assert "blue" in cluster.virsh("net-list")


def test_a_nodes_view_shows_what_the_node_itself_has(cluster: RealCluster, network: Make) -> None:
    network("blue", 88)
    view, node = cluster.view("n2"), cluster.node("n2")
    for words in (
        ("net-list", "--all"),
        ("net-dumpxml", "blue"),
        ("net-info", "blue"),
        ("net-dhcp-leases", "blue"),
    ):
        assert view.run(*words) == node.run(*words)
    assert "<forward mode='bridge'/>" in view("net-dumpxml", "blue")


def test_a_domain_does_not_start_on_a_network_that_is_off(
    cluster: RealCluster, network: Make, make: Make, tmp_path: Path
) -> None:
    virsh = cluster.virsh
    network("blue", 89)
    make("one", devices=nic("blue"))
    virsh("net-destroy", "blue")
    refused = "Requested operation is not valid: network 'blue' is not active"
    assert refused in virsh.fails("start", "one")
    path = tmp_path / "two.xml"
    path.write_text(cluster.xml("two", devices=nic("blue")))
    assert refused in virsh.fails("create", str(path))


def test_what_a_network_cannot_give_is_refused_with_the_reason(
    cluster: RealCluster, network: Make, make: Make, tmp_path: Path
) -> None:
    virsh = cluster.virsh
    network("blue", 84, last=11)
    make("one", start=True, devices=nic("blue"))
    make("two", devices=nic("blue"))
    path = tmp_path / "three.xml"
    path.write_text(cluster.xml("three", devices=nic("blue")))
    text = virsh.fails("define", str(path))
    assert "network 'blue' has no free address in 10.84.0.10 to 10.84.0.11" in text
    assert "10.84.0.2 to 10.84.0.9" in text
    assert "three" not in virsh.names("--all")
    assert "has no free address" in virsh.fails("attach-interface", "one", "network", "blue", "--live")
    mac = interfaces(virsh, "one")[0][4]
    text = virsh.fails("attach-interface", "two", "network", "blue", "--mac", mac, "--config")
    assert f"the MAC {mac} is domain one" in text
    virsh("undefine", "two")
    eventually(lambda: set(leases(virsh, "blue")) == {mac}, 10, "the lease is released")
    # Whoever comes meanwhile does not get it: it waits for its own MAC.
    assert "1 released" in virsh.fails("define", str(path))
    make("two", devices=nic("blue", "02:00:0a:54:00:0b"))
    assert leases(virsh, "blue")["02:00:0a:54:00:0b"] == "10.84.0.11/24"
    virsh("net-destroy", "blue")
    assert "network 'blue' is not active" in virsh.fails(
        "attach-interface", "one", "network", "blue", "--live"
    )
