"""MACs that encode an address, addresses that encode a MAC, and who has which MAC.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address

from netmgr.errors import BadValue, Clash
from netmgr.model import Address, Subnet
from netmgr.xml.values import is_multicast, parse_mac

PREFIX = "02:00"
"""Of MACs that we make: not a vendor's, not a group's; the last four bytes are the address's."""


def mac_of(address: Address, prefix: str = PREFIX) -> str:
    """The MAC that encodes an address: `prefix` (two bytes) and the address's last four.  BadValue."""
    head = parse_prefix(prefix)
    return ":".join(f"{byte:02x}" for byte in head + address.packed[-4:])


def address_in(mac: str, subnet: Subnet, prefix: str = PREFIX) -> Address | None:
    """The address of a subnet that a MAC encodes; None when it is none of ours, or of another subnet."""
    raw = bytes.fromhex(mac.replace(":", ""))
    if raw[:2] != parse_prefix(prefix):
        return None
    if subnet.version == 4:
        found: Address = IPv4Address(raw[2:])
    else:
        found = IPv6Address(subnet.network_address.packed[:12] + raw[2:])
    return found if found in subnet else None


def parse_prefix(text: str) -> bytes:
    """Two bytes with a colon between; BadValue when it is none, or that of a group."""
    try:
        raw = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        raw = b""
    if len(raw) != 2 or raw[0] & 1:
        raise BadValue(f"the prefix of MACs is '{text}', it must be two bytes as 02:00, not of a group")
    return raw


def slaac(subnet: Subnet, mac: str) -> Address | None:
    """The address that a guest gives itself in an IPv6 subnet (RFC 4862, modified EUI-64); None unless it is a /64."""
    if subnet.version != 6 or subnet.prefixlen != 64:
        return None
    raw = bytes.fromhex(mac.replace(":", ""))
    host = bytes([raw[0] ^ 2]) + raw[1:3] + b"\xff\xfe" + raw[3:]
    return IPv6Address(subnet.network_address.packed[:8] + host)


def whole_client_id(client: str) -> str:
    """A DHCP client id with two digits for each byte, in lower case, as servers write it; libvirt takes one digit."""
    return ":".join(part.zfill(2) for part in client.lower().split(":")) if client else ""


def mac_in_client_id(client: str) -> str:
    """The MAC in a DHCPv6 client id (DUID-LL, DUID-LLT of Ethernet, as colons and hexadecimal); "" for another."""
    try:
        raw = bytes(int(part, 16) for part in client.split(":"))
    except ValueError:
        return ""
    lengths = {b"\0\3\0\1": 10, b"\0\1\0\1": 14}
    if lengths.get(raw[:4]) != len(raw):
        return ""
    return ":".join(f"{byte:02x}" for byte in raw[-6:])


def claim(mac: str, owner: str, owners: Mapping[str, str]) -> str:
    """The MAC in its usual form, when it may be `owner`'s.  owners: MAC -> whose it is.  BadValue, Clash."""
    mac = parse_mac(mac)
    if is_multicast(mac):
        raise BadValue(f"the MAC {mac} is that of a group, an interface needs one of its own")
    other = owners.get(mac, owner)
    if other != owner:
        raise Clash(f"the MAC {mac} is {other}'s already, {owner} needs another one")
    return mac
