"""What one node shall have of one network, as the front end tells it and an agent keeps it.  Pure.

Plain values with the format of a message: addresses and MACs are text (MACs lower case, with colons), an empty text,
zero or False says "not given".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import blake2b
from ipaddress import ip_address, ip_interface, ip_network

import msgspec

MARK = "clusterhost:"
NAMESPACE = "urn:clusterhost:network:1"
"""Of our mark in the metadata of a network at libvirtd."""
VXLAN_PORT = 4789
MODES = ("none", "nat", "route", "open")
LAST_TAG = 4094
OVERHEAD = {4: 50, 6: 70}
"""Bytes that VXLAN adds to a frame's payload, by the underlay's IP version."""

_LINK = re.compile(r"(?!\.{1,2}$)[^\s/\"'\\:%{}!?*\[\]]{1,15}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_NAME = re.compile(r"[A-Za-z0-9_*]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")
_ID = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2})*")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Unfit(ValueError):
    """A wanted value that cannot be had as it is; the message says which and why."""


class _Value(msgspec.Struct, frozen=True, omit_defaults=True):
    pass


class WantedTag(_Value, frozen=True):
    """A VLAN that a guest is in.  native: what it sends without a tag goes there; untagged: it gets that VLAN's frames
    without a tag."""

    id: int
    native: bool = False
    untagged: bool = False


class WantedTrunk(_Value, frozen=True):
    """VLANs of a device (the node's name for it).

    single: the network has a bridge to itself, with a link DEVICE.TAG for its only tag; else the device is a port of a
    bridge that all networks of the device share, and each guest's port has its tags."""

    device: str
    tags: tuple[int, ...]
    single: bool = False


class WantedGuest(_Value, frozen=True):
    """A MAC of a guest, or a reservation for one.

    place: underlay address of the node where it runs, "" here (or nowhere).  client_id: of DHCP, where that identifies
    the guest instead of the MAC.  lease: seconds, 0 as the subnet's.  isolated: no talk to other isolated guests,
    whatever the network says.  vlans: on a trunk."""

    mac: str = ""
    addresses: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    place: str = ""
    client_id: str = ""
    lease: int = 0
    isolated: bool = False
    vlans: tuple[WantedTag, ...] = ()
    serial: int = 0

    @property
    def key(self) -> str:
        """Names it in the network; fit for a file's name."""
        return self.mac or f"id-{self.client_id}"


class GuestGone(_Value, frozen=True):
    """The network knows this guest no longer."""

    key: str
    serial: int = 0


class WantedSubnet(_Value, frozen=True):
    """The gateway's address with its prefix (192.168.1.1/24).

    dhcp: guests get their addresses by DHCP; without it an IPv6 subnet is announced for SLAAC.  lease: seconds, 0 for
    ever.  options: in dnsmasq's words, without dhcp-option=."""

    address: str
    dhcp: bool = False
    lease: int = 3600
    options: tuple[str, ...] = ()
    boot_file: str = ""
    boot_server: str = ""
    tftp_root: str = ""
    local_ptr: bool = False

    @property
    def version(self) -> int:
        """4 or 6."""
        return ip_interface(self.address).version

    @property
    def gateway(self) -> str:
        """The address alone."""
        return str(ip_interface(self.address).ip)

    @property
    def network(self) -> str:
        """The subnet with its prefix."""
        return str(ip_interface(self.address).network)


class WantedNat(_Value, frozen=True):
    """What outgoing traffic becomes: a range of addresses ("" the node's own), of ports; ipv6 too or not."""

    start: str = ""
    end: str = ""
    port_start: int = 1024
    port_end: int = 65535
    ipv6: bool = False


class WantedRoute(_Value, frozen=True):
    """A subnet reached through a gateway inside the network."""

    destination: str
    gateway: str
    metric: int = 0


class WantedSrv(_Value, frozen=True):
    """A service record; target "" says that there is none."""

    service: str
    protocol: str
    domain: str = ""
    target: str = ""
    port: int = 0
    priority: int = 0
    weight: int = 0


class WantedRate(_Value, frozen=True):
    """As <bandwidth> says it: average and peak in 1000 bytes a second, burst in KiB.  average 0: no limit."""

    average: int = 0
    peak: int = 0
    burst: int = 0


class WantedDns(_Value, frozen=True):
    """Names.  forwarders: (domain or "" for all, address or "" for nobody); hosts: (address, names);
    txts: (name, value)."""

    enable: bool = True
    domain: str = ""
    local_only: bool = False
    forward_plain_names: bool = True
    forwarders: tuple[tuple[str, str], ...] = ()
    hosts: tuple[tuple[str, tuple[str, ...]], ...] = ()
    srvs: tuple[WantedSrv, ...] = ()
    txts: tuple[tuple[str, str], ...] = ()


class WantedNetwork(_Value, frozen=True):
    """One network at one node.

    local, peers: underlay addresses of this node ("": what its keeper has) and of the others.  mtu 0: what the
    underlay carries; carried: bytes that those of all nodes do, 0 when that is not known.  devices: outgoing only
    by these links, none: by all.  suppress: known ARP and ND is answered here.  isolated: whoever is not among the
    guests.  options: dnsmasq's own lines.  inbound, outbound: what all guests here get from outside of the bridge,
    and send there.  trunk: VLANs of a device, in the place of all that but a bridge and guests.  serial: an older
    one is refused."""

    uuid: str
    name: str
    serial: int
    vni: int
    bridge: str
    mac: str
    local: str = ""
    peers: tuple[str, ...] = ()
    port: int = VXLAN_PORT
    mtu: int = 0
    carried: int = 0
    mode: str = "none"
    devices: tuple[str, ...] = ()
    nat: WantedNat = WantedNat()
    subnets: tuple[WantedSubnet, ...] = ()
    routes: tuple[WantedRoute, ...] = ()
    dns: WantedDns = WantedDns()
    options: tuple[str, ...] = ()
    isolated: bool = False
    inbound: WantedRate = WantedRate()
    outbound: WantedRate = WantedRate()
    suppress: bool = True
    trunk: WantedTrunk | None = None
    guests: tuple[WantedGuest, ...] = ()

    @property
    def mark(self) -> str:
        """What our links carry as their alias."""
        return MARK + self.uuid

    @property
    def overlay(self) -> str:
        """Name of the VXLAN link."""
        return overlay_name(self.vni)

    def by_key(self) -> Mapping[str, WantedGuest]:
        """Its guests by their key; what is said of one in several places is put together."""
        found: dict[str, WantedGuest] = {}
        for guest in self.guests:
            other = found.get(guest.key)
            found[guest.key] = guest if other is None else _both(other, guest)
        return found


def is_name(text: str) -> bool:
    """It can stand in a zone."""
    return len(text) <= 253 and _NAME.fullmatch(text) is not None


def _both(one: WantedGuest, other: WantedGuest) -> WantedGuest:
    return msgspec.structs.replace(
        one,
        addresses=tuple(dict.fromkeys((*one.addresses, *other.addresses))),
        names=tuple(dict.fromkeys((*one.names, *other.names))),
        place=one.place or other.place,
        lease=one.lease or other.lease,
        isolated=one.isolated or other.isolated,
        vlans=one.vlans or other.vlans,
        serial=max(one.serial, other.serial),
    )


def overlay_name(vni: int) -> str:
    """Name of the VXLAN link of a number."""
    return f"ch{vni:x}"


def temporary_name(uuid: str, what: str) -> str:
    """Name of a link of a network while it is made: it tells us that it is ours before it carries the mark."""
    return f"c{what[0]}" + blake2b(f"{what} {uuid}".encode(), digest_size=6).hexdigest()


def fitting_mtu(wanted: WantedNetwork, room: int) -> int:
    """Of a network's links: what its definition says, else what fits through every node's underlay; room: through this
    node's, in bytes."""
    if wanted.mtu or not wanted.carried:
        return wanted.mtu or room
    return min(room, vxlan_mtu(wanted.carried, wanted.local))


def vxlan_mtu(underlay_mtu: int, local: str) -> int:
    """What fits through the overlay, in bytes."""
    return underlay_mtu - OVERHEAD[ip_address(local).version]


def check(wanted: WantedNetwork) -> None:
    """Refuse what is no address, name or number, for it would end up in files and rules.  Raises Unfit."""
    if not _UUID.fullmatch(wanted.uuid):
        raise Unfit(f"{wanted.uuid!r} is no uuid")
    for link in (wanted.bridge, *wanted.devices):
        if not _LINK.fullmatch(link):
            raise Unfit(
                f"{link!r} cannot be the name of a link: 1 to 15 characters, no space, quote or bracket"
            )
    if not 1 <= wanted.vni < 1 << 24:
        raise Unfit(f"VNI {wanted.vni} is not in 1 to 16777215")
    _joined(wanted)
    _addresses(wanted)
    _dns(wanted.dns)
    for line in (*wanted.options, *(option for subnet in wanted.subnets for option in subnet.options)):
        _line(line)
    for subnet in wanted.subnets:
        for text in (subnet.boot_file, subnet.boot_server, subnet.tftp_root):
            _line(text, ",")
    for guest in wanted.guests:
        check_guest(guest)


def check_guest(guest: WantedGuest) -> None:
    """The same for one guest; its names may be anything: only those that are names are made known."""
    if guest.mac or not guest.client_id:
        _mac(guest.mac)
    if guest.client_id and not _ID.fullmatch(guest.client_id):
        raise Unfit(f"{guest.client_id!r} is no DHCP client id")
    for address in (*guest.addresses, *filter(None, (guest.place,))):
        _parsed(ip_address, address)
    for tag in guest.vlans:
        _tag(tag.id)


def _joined(wanted: WantedNetwork) -> None:
    if wanted.trunk is not None:
        _trunk(wanted.trunk)
    elif wanted.mode not in MODES:
        raise Unfit(f"forward mode {wanted.mode!r} is none of {', '.join(MODES)}")
    else:
        _mac(wanted.mac)


def _trunk(trunk: WantedTrunk) -> None:
    if not _LINK.fullmatch(trunk.device):
        raise Unfit(f"{trunk.device!r} cannot be the name of a link")
    for tag in trunk.tags:
        _tag(tag)
    if not trunk.tags or (trunk.single and len(trunk.tags) > 1):
        raise Unfit(f"{len(trunk.tags)} VLAN tags for {trunk.device}, one or more are needed, of a link one")


def _tag(tag: int) -> None:
    if not 1 <= tag <= LAST_TAG:
        raise Unfit(f"VLAN tag {tag} is not in 1 to {LAST_TAG}")


def _addresses(wanted: WantedNetwork) -> None:
    for address in (*wanted.peers, *filter(None, (wanted.local, wanted.nat.start, wanted.nat.end))):
        _parsed(ip_address, address)
    for subnet in wanted.subnets:
        _parsed(ip_interface, subnet.address)
    for route in wanted.routes:
        _parsed(ip_network, route.destination)
        _parsed(ip_address, route.gateway)


def _dns(dns: WantedDns) -> None:
    for domain, address in dns.forwarders:
        if address:
            _parsed(ip_address, address)
        _name(domain or "any")
    for address, names in dns.hosts:
        _parsed(ip_address, address)
        for name in names:
            _name(name)
    for srv in dns.srvs:
        for name in filter(None, (srv.service, srv.protocol, srv.domain, srv.target)):
            _name(name)
    for name, value in dns.txts:
        _name(name)
        _line(value, '"')
    if dns.domain:
        _name(dns.domain)


def _parsed(read: object, text: str) -> None:
    try:
        read(text)  # type: ignore[operator]
    except ValueError as error:
        raise Unfit(str(error)) from None


def _mac(text: str) -> None:
    if not _MAC.fullmatch(text):
        raise Unfit(f"{text!r} is no MAC in lower case with colons")
    if int(text[:2], 16) & 1:
        raise Unfit(f"{text} is a group's MAC, one of a link is needed")


def _name(text: str) -> None:
    if not is_name(text):
        raise Unfit(f"{text!r} cannot be a name")


def _line(text: str, without: str = "") -> None:
    if not text.isprintable() or any(sign in text for sign in without):
        raise Unfit(f"{text!r} cannot stand in a configuration")
