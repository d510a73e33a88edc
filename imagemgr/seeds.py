"""What a guest is told at its first boot: NoCloud documents (network-config of version 2).  Pure.

The documents are YAML, written as JSON, which is part of it: nothing has to be quoted by rules of our own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address, ip_interface
from typing import Any

from imagemgr import sshkeys
from imagemgr.errors import SeedRefused

LABEL = "cidata"
"""The volume's name, by which cloud-init finds it."""

META_DATA, USER_DATA, NETWORK = "meta-data", "user-data", "network-config"

LARGEST = 8 * 1024 * 1024
"""Bytes of a file that is taken for user-data or a key."""

BEGINNINGS = (
    b"#cloud-config",
    b"#!",
    b"#include",
    b"#cloud-boothook",
    b"#part-handler",
    b"## template: jinja",
    b"Content-Type:",
    b"MIME-Version:",
    b"\x1f\x8b",
)
"""By which cloud-init tells kinds of user-data; the last is gzip's."""

_HOST = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")
_INSTANCE = re.compile(r"[A-Za-z0-9._:-]{1,255}")
_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")
_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""What JSON may have as it is and YAML may not, or takes for a line's end."""

_EMPTY_USER_DATA = b"#cloud-config\n{}\n"


@dataclass(frozen=True, slots=True)
class Interface:
    """One of a guest.  addresses: with prefix ("10.50.0.5/24"); gateways: at most one of each family is used.

    mtu: bytes, 0 for the link's own; dhcp4: it asks for an address of IPv4.  IPv6 is announced by routers."""

    mac: str
    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    mtu: int = 0
    dhcp4: bool = False


@dataclass(frozen=True, slots=True)
class Guest:
    """name: its host name, with dots a full one.  instance: another one makes cloud-init do its work again.

    keys: lines as in authorized_keys; user_data: as it was written; network: a document of the user's own."""

    name: str
    instance: str = ""
    keys: tuple[str, ...] = ()
    user_data: bytes = b""
    interfaces: tuple[Interface, ...] = ()
    network: bytes = b""


def documents(guest: Guest) -> dict[str, bytes]:
    """The volume's files; without interfaces and a document of its own the guest does what it does by itself.

    SeedRefused."""
    found = {META_DATA: _meta_data(guest), USER_DATA: guest.user_data or _EMPTY_USER_DATA}
    if len(guest.user_data) > LARGEST:
        raise SeedRefused(f"user-data has {len(guest.user_data)} bytes, allowed are {LARGEST}")
    if guest.network:
        found[NETWORK] = guest.network
    elif guest.interfaces:
        found[NETWORK] = yaml(network_config(guest.interfaces))
    return found


def network_config(interfaces: Iterable[Interface]) -> dict[str, Any]:
    """A network-config of version 2.  Interfaces are told by their MACs, and called eth0, eth1 in their order.

    Only the first with a gateway of a family gets the default route: two would fight for it.  SeedRefused."""
    ethernets: dict[str, Any] = {}
    macs: set[str] = set()
    routed: set[int] = set()
    for number, interface in enumerate(interfaces):
        mac = interface.mac.lower()
        if not _MAC.fullmatch(mac):
            raise SeedRefused(f"{interface.mac!r} is no MAC address")
        if mac in macs:
            raise SeedRefused(f"two interfaces have the MAC address {mac}")
        macs.add(mac)
        # Not every back end of cloud-init finds an interface by its MAC alone: some write the key into their files.
        name = f"eth{number}"
        ethernets[name] = {"match": {"macaddress": mac}, "set-name": name, **_ethernet(interface, routed)}
    return {"version": 2, "ethernets": ethernets}


def interface_of(row: Mapping[str, Any]) -> Interface:
    """From what the front end says of one."""
    lists = {key: tuple(row.get(key, ())) for key in ("addresses", "gateways", "dns", "search")}
    return Interface(row["mac"], **lists, mtu=row.get("mtu", 0), dhcp4=row.get("dhcp4", False))


def keys_in(text: str) -> tuple[str, ...]:
    """Public keys of a file like authorized_keys or id_ed25519.pub; SeedRefused."""
    if "PRIVATE KEY-----" in text:
        raise SeedRefused("it is a private key, the public one is wanted (often the same name with .pub)")
    lines = (line.strip() for line in text.splitlines())
    found = tuple(line for line in lines if line and not line.startswith("#"))
    if not found:
        raise SeedRefused("it has no key in it")
    for line in found:
        sshkeys.check(line)
    return found


def doubt(user_data: bytes) -> str:
    """Why cloud-init would pass over user-data, "" when it would not; others than cloud-init may know it."""
    if not user_data or user_data.startswith(BEGINNINGS):
        return ""
    line = user_data.split(b"\n", 1)[0][:40].decode("utf-8", "replace")
    return f"user-data begins with {line!r}, which cloud-init does not know; it wants '#cloud-config' or '#!'"


def yaml(value: Mapping[str, Any]) -> bytes:
    """A document that readers of YAML 1.1, YAML 1.2 and JSON take for the same value."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    return _NOT_IN_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode() + b"\n"


def _meta_data(guest: Guest) -> bytes:
    labels = guest.name.split(".")
    if len(guest.name) > 253 or not all(map(_HOST.fullmatch, labels)):
        text = (
            f"{guest.name!r} is no host name; it has letters, digits and hyphens, and dots between such words"
        )
        raise SeedRefused(text)
    instance = guest.instance or f"iid-{guest.name}"
    if not _INSTANCE.fullmatch(instance):
        raise SeedRefused(f"{instance!r} is no instance id; it has letters, digits and . _ : -")
    found: dict[str, Any] = {"instance-id": instance, "local-hostname": guest.name}
    if guest.keys:
        found["public-keys"] = [key for line in guest.keys for key in keys_in(line)]
    return yaml(found)


def _ethernet(interface: Interface, routed: set[int]) -> dict[str, Any]:
    """routed: families that have their default route, and get it here."""
    addresses = [_address(text) for text in interface.addresses]
    found: dict[str, Any] = {}
    if interface.dhcp4:
        found["dhcp4"] = True
    if addresses:
        found["addresses"] = [address.with_prefixlen for address in addresses]
    for text in interface.gateways:
        gateway = ip_address(_plain(text, "gateway"))
        if gateway.version not in routed:
            routed.add(gateway.version)
            _add_gateway(found, gateway, addresses)
    names = {
        "addresses": [_plain(server, "name server") for server in interface.dns],
        "search": [_domain(name) for name in interface.search],
    }
    if any(names.values()):
        found["nameservers"] = {key: value for key, value in names.items() if value}
    if interface.mtu:
        if not 68 <= interface.mtu <= 65535:
            raise SeedRefused(f"an MTU has 68 to 65535 bytes, found {interface.mtu}")
        found["mtu"] = interface.mtu
    return found


def _add_gateway(
    found: dict[str, Any],
    gateway: IPv4Address | IPv6Address,
    addresses: list[IPv4Interface | IPv6Interface],
) -> None:
    """By the older word where it is enough: cloud-init 22 takes a route to ::/0 for one to ::/64, and knows no
    "default"; netplan still knows the word."""
    if gateway.is_link_local or any(gateway in address.network for address in addresses):
        found[f"gateway{gateway.version}"] = str(gateway)
        return
    to = "0.0.0.0/0" if gateway.version == 4 else "::/0"
    found.setdefault("routes", []).append({"to": to, "via": str(gateway), "on-link": True})


def _address(text: str) -> IPv4Interface | IPv6Interface:
    try:
        found = ip_interface(text)
    except ValueError as error:
        raise SeedRefused(f"{text!r} is no address with a prefix") from error
    if "/" not in text or getattr(found, "scope_id", None):
        raise SeedRefused(f"{text!r} is no address with a prefix, as 10.0.0.5/24 is")
    return found


def _plain(text: str, what: str) -> str:
    try:
        found = ip_address(text)
    except ValueError as error:
        raise SeedRefused(f"{what} {text!r} is no address") from error
    if getattr(found, "scope_id", None):
        raise SeedRefused(f"{what} {text!r} names a link of some machine")
    return str(found)


def _domain(name: str) -> str:
    if len(name) > 253 or not all(map(_HOST.fullmatch, name.rstrip(".").split("."))):
        raise SeedRefused(f"{name!r} is no domain to search")
    return name
