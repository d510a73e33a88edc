"""What a network is, in frozen values named as in libvirt's network XML.  Pure.

Addresses are `ipaddress` values, MACs lower case text with colons, uuids 16 bytes (b"" where none was given), lists
are tuples in the document's order.  An empty text, zero or None says: not given.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

Address = IPv4Address | IPv6Address
Subnet = IPv4Network | IPv6Network

LINK_NAME = 15
"""The longest name of a link (Linux: IFNAMSIZ less its closing zero)."""


class Mode(StrEnum):
    """How a network is joined to the world; NONE is an isolated one, without <forward>."""

    NONE = "none"
    NAT = "nat"
    ROUTE = "route"
    OPEN = "open"
    BRIDGE = "bridge"
    PRIVATE = "private"
    VEPA = "vepa"
    PASSTHROUGH = "passthrough"
    HOSTDEV = "hostdev"

    @property
    def has_own_bridge(self) -> bool:
        """We make the bridge, and serve addresses on it."""
        return self in OWN_BRIDGE

    @property
    def routes(self) -> bool:
        """The host carries packets between this network and others."""
        return self in (Mode.NAT, Mode.ROUTE, Mode.OPEN)


OWN_BRIDGE = frozenset({Mode.NONE, Mode.NAT, Mode.ROUTE, Mode.OPEN})


@dataclass(frozen=True, slots=True)
class PciAddress:
    """A device of the host that is given away in mode hostdev."""

    domain: int = 0
    bus: int = 0
    slot: int = 0
    function: int = 0


@dataclass(frozen=True, slots=True)
class AddressRange:
    """From start to end, both included."""

    start: Address
    end: Address


@dataclass(frozen=True, slots=True)
class PortRange:
    """From start to end, both included."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Nat:
    """What outgoing traffic becomes.  None: the host's own address, ports 1024 to 65535."""

    addresses: AddressRange | None = None
    ports: PortRange | None = None
    ipv6: bool | None = None


@dataclass(frozen=True, slots=True)
class Forward:
    """<forward>.  interfaces: links of the host (nat, route: the only one to go out by); devices: PCI devices;

    pf: the physical function whose virtual ones are used."""

    mode: Mode = Mode.NONE
    interfaces: tuple[str, ...] = ()
    devices: tuple[PciAddress, ...] = ()
    pf: str = ""
    managed: bool = False
    driver: str = ""
    nat: Nat | None = None

    @property
    def dev(self) -> str:
        """The first interface, "" without one."""
        return self.interfaces[0] if self.interfaces else ""


@dataclass(frozen=True, slots=True)
class Bridge:
    """<bridge>.  name: may hold %d until it is defined; delay: seconds; zone: of firewalld.

    mac_table: "", kernel or libvirt."""

    name: str = ""
    zone: str = ""
    stp: bool = True
    delay: int = 0
    mac_table: str = ""


@dataclass(frozen=True, slots=True)
class LeaseTime:
    """How long an answer of the DHCP server holds; expiry 0: for ever."""

    expiry: int
    unit: str = "minutes"

    @property
    def seconds(self) -> int:
        """The same in seconds."""
        return self.expiry * {"seconds": 1, "minutes": 60, "hours": 3600}[self.unit]


@dataclass(frozen=True, slots=True)
class DhcpRange:
    """<range>: addresses that are given out, both ends included."""

    start: Address
    end: Address
    lease: LeaseTime | None = None

    def __contains__(self, address: object) -> bool:
        if not isinstance(address, IPv4Address | IPv6Address) or address.version != self.start.version:
            return False
        return int(self.start) <= int(address) <= int(self.end)


@dataclass(frozen=True, slots=True)
class DhcpHost:
    """<host>: the address of a MAC (IPv6: of a client id, or of a name).  written: the MAC as it came."""

    ip: Address
    mac: str = ""
    written: str = ""
    id: str = ""
    name: str = ""
    lease: LeaseTime | None = None


@dataclass(frozen=True, slots=True)
class Bootp:
    """<bootp>: what a guest boots.  server: None for the network's own."""

    file: str
    server: Address | None = None


@dataclass(frozen=True, slots=True)
class Dhcp:
    """<dhcp>."""

    ranges: tuple[DhcpRange, ...] = ()
    hosts: tuple[DhcpHost, ...] = ()
    bootp: Bootp | None = None


@dataclass(frozen=True, slots=True)
class Ip:
    """<ip>: the host's (so the gateway's) address in a subnet.  family: "", ipv4 or ipv6, as written.

    prefix: bits, also where a netmask was written; None: neither was."""

    address: Address
    prefix: int | None = None
    netmask: bool = False
    family: str = ""
    local_ptr: bool | None = None
    tftp_root: str = ""
    dhcp: Dhcp | None = None

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.address.version

    @property
    def bits(self) -> int:
        """The prefix in force: where none is written, that of the address's class, for IPv6 64."""
        return default_prefix(self.address) if self.prefix is None else self.prefix

    @property
    def subnet(self) -> Subnet:
        """The subnet."""
        return ip_network((self.address, self.bits), strict=False)


@dataclass(frozen=True, slots=True)
class Route:
    """<route>: a subnet that is reached through a gateway in one of the network's own."""

    address: Address
    gateway: Address
    prefix: int | None = None
    netmask: bool = False
    family: str = ""
    metric: int = 0

    @property
    def bits(self) -> int:
        """The prefix in force; only a default route may lack one."""
        return self.prefix or 0

    @property
    def subnet(self) -> Subnet:
        """The subnet that is reached."""
        return ip_network((self.address, self.bits), strict=False)


@dataclass(frozen=True, slots=True)
class Forwarder:
    """<forwarder>: who is asked for names (of a domain) that we do not know; addr None: nobody, it is ours."""

    addr: Address | None = None
    domain: str = ""


@dataclass(frozen=True, slots=True)
class Txt:
    """<txt>: a text record."""

    name: str
    value: str = ""


@dataclass(frozen=True, slots=True)
class Srv:
    """<srv>: a service record; numbers 0: not given."""

    service: str
    protocol: str
    domain: str = ""
    target: str = ""
    port: int = 0
    priority: int = 0
    weight: int = 0


@dataclass(frozen=True, slots=True)
class DnsHost:
    """<host> of <dns>: names of an address."""

    ip: Address
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Dns:
    """<dns>.  None: not written, which means yes."""

    enable: bool | None = None
    forward_plain_names: bool | None = None
    forwarders: tuple[Forwarder, ...] = ()
    txts: tuple[Txt, ...] = ()
    srvs: tuple[Srv, ...] = ()
    hosts: tuple[DnsHost, ...] = ()

    @property
    def records(self) -> bool:
        """It holds any."""
        return bool(self.forwarders or self.txts or self.srvs or self.hosts)


@dataclass(frozen=True, slots=True)
class DnsDomain:
    """<domain>: the zone of the guests' names.  local_only: nobody else is asked for names in it."""

    name: str
    local_only: bool | None = None
    register: bool | None = None


@dataclass(frozen=True, slots=True)
class VlanTag:
    """<tag>.  native: "", tagged or untagged."""

    id: int
    native: str = ""


@dataclass(frozen=True, slots=True)
class Vlan:
    """<vlan>: one tag, or a trunk of many."""

    tags: tuple[VlanTag, ...] = ()
    trunk: bool = False


@dataclass(frozen=True, slots=True)
class VirtualPort:
    """<virtualport>: type ("" where none is written) and parameters, in libvirt's order."""

    type: str = ""
    parameters: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Rate:
    """Kibibytes per second, burst in kibibytes; 0: not given."""

    average: int = 0
    peak: int = 0
    burst: int = 0


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """<bandwidth>, as guests see it: inbound is what they receive."""

    inbound: Rate | None = None
    outbound: Rate | None = None


@dataclass(frozen=True, slots=True)
class PortGroup:
    """<portgroup>: what an interface that names it gets."""

    name: str
    default: bool = False
    trust_rx_filters: bool | None = None
    vlan: Vlan | None = None
    virtualport: VirtualPort | None = None
    bandwidth: Bandwidth | None = None


@dataclass(frozen=True, slots=True)
class Network:
    """<network>.  metadata: its children as text (None: no such element); options: of dnsmasq, in its words.

    guests_ipv6: guests speak IPv6 among themselves although there is no gateway.  isolated: ports do not see each
    other.  kept: elements below <network> that we do not know, as they came."""

    name: str
    uuid: bytes = b""
    title: str = ""
    description: str = ""
    metadata: tuple[str, ...] | None = None
    forward: Forward = Forward()
    bridge: Bridge = Bridge()
    mtu: int = 0
    mac: str = ""
    domain: DnsDomain | None = None
    dns: Dns = Dns()
    vlan: Vlan | None = None
    virtualport: VirtualPort | None = None
    bandwidth: Bandwidth | None = None
    portgroups: tuple[PortGroup, ...] = ()
    isolated: bool | None = None
    guests_ipv6: bool = False
    trust_rx_filters: bool | None = None
    ips: tuple[Ip, ...] = ()
    routes: tuple[Route, ...] = ()
    options: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    @property
    def mode(self) -> Mode:
        """How it is joined to the world."""
        return self.forward.mode

    @property
    def gateways(self) -> tuple[Address, ...]:
        """The host's own addresses."""
        return tuple(ip.address for ip in self.ips)

    @property
    def subnets(self) -> tuple[Subnet, ...]:
        """The subnets of its addresses."""
        return tuple(ip.subnet for ip in self.ips)

    def dhcp_of(self, version: int) -> Ip | None:
        """The one address element of a family (4 or 6) that has DHCP."""
        found = (ip for ip in self.ips if ip.version == version and ip.dhcp is not None)
        return next(found, None)


def default_prefix(address: Address) -> int:
    """The prefix that holds where none is written: of the address's class (IPv4; 32 where it has none), else 64."""
    if address.version == 6:
        return 64
    first = int(address) >> 24
    for below, bits in ((128, 8), (192, 16), (224, 24)):
        if first < below:
            return bits
    return 32


def has_class(address: Address) -> bool:
    """Whether an address has a prefix of its own: classes D and E of IPv4 have none."""
    return address.version == 6 or int(address) >> 24 < 224


class LeaseState(StrEnum):
    """BOUND to an interface; HELD: an operator keeps it off the market; RESERVED for a MAC, there or not; RELEASED:
    nobody's, but the MAC gets it back while the grace time lasts."""

    BOUND = "bound"
    HELD = "held"
    RESERVED = "reserved"
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class Lease:
    """An address that is spoken for.  since: seconds since the epoch when this state began.

    mac "" only when HELD.  name: of the guest; "" for a RESERVED one says that no interface has it."""

    network: bytes
    address: Address
    mac: str = ""
    name: str = ""
    state: LeaseState = LeaseState.BOUND
    since: float = 0.0

    @property
    def in_use(self) -> bool:
        """An interface has it."""
        return self.state is LeaseState.BOUND or (self.state is LeaseState.RESERVED and bool(self.name))


@dataclass(frozen=True, slots=True)
class Guest:
    """An interface on a network: its MAC, addresses and names, and the node it is at ("" while it runs nowhere)."""

    mac: str
    addresses: tuple[Address, ...] = ()
    names: tuple[str, ...] = ()
    node: str = ""
