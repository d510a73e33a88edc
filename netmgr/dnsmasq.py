"""Configuration and host files of a network's dnsmasq, the same on every node.  Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_address, ip_interface, ip_network

from netmgr.wanted import WantedDns, WantedGuest, WantedNetwork, WantedSrv, WantedSubnet, is_name

CONFIG = "dnsmasq.conf"
PID_FILE = "pid"
LEASES = "leases"
DHCP_HOSTS, NAMES = "dhcp.d", "names.d"
ENTERPRISE = 32473
"""In the servers' DUID, which the network's uuid makes unique: RFC 5612's number for those who have none."""
ZONE = f"{NAMES}/network"
"""Hosts that the network's own definition names."""


_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_NO_HOST = re.compile(r"[0-9]+[smhdw]?|infinite|ignore", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease that a dnsmasq gave.  owner: a MAC, for IPv6 a DUID; expires: seconds since the epoch, 0 never."""

    address: str
    owner: str
    expires: int


def is_needed(wanted: WantedNetwork) -> bool:
    """A network without an address has nobody who could be asked."""
    return bool(wanted.subnets)


def config(wanted: WantedNetwork, directory: str, mtu: int) -> str:
    """The configuration; `directory` is where this network's files are, without a slash at its end."""
    lines = [
        "strict-order",
        "bind-dynamic",
        "except-interface=lo",
        f"interface={wanted.bridge}",
        "no-hosts",
        f"pid-file={directory}/{PID_FILE}",
        f"dhcp-leasefile={directory}/{LEASES}",
        *_names(wanted.dns, isolated=wanted.mode == "none"),
        f"hostsdir={directory}/{NAMES}",
    ]
    for subnet in wanted.subnets:
        lines += _subnet(subnet)
    if any(subnet.dhcp for subnet in wanted.subnets):
        lines += ["dhcp-no-override", "dhcp-authoritative", f"dhcp-hostsdir={directory}/{DHCP_HOSTS}"]
        lines.append("dhcp-lease-max=65536")
    if any(subnet.dhcp and subnet.version == 6 for subnet in wanted.subnets):
        # One on all nodes: a guest that moved renews with the server that it knows by this.
        lines.append(f"dhcp-duid={ENTERPRISE},{bytes.fromhex(wanted.uuid.replace('-', '')).hex(':')}")
    lines += _announcements(wanted, mtu)
    return "\n".join([*lines, *wanted.options]) + "\n"


def _names(dns: WantedDns, *, isolated: bool) -> Iterator[str]:
    if not dns.enable:
        yield "port=0"
        return
    # An isolated network asks nobody; with forwarders, only these are asked.
    if isolated or dns.forwarders:
        yield "no-resolv"
    for domain, address in dns.forwarders:
        yield f"server=/{domain}/{address}" if domain else f"server={address}"
    if not dns.forward_plain_names:
        yield "domain-needed"
        yield "local=//"
    if dns.domain:
        yield f"domain={dns.domain}"
        yield "expand-hosts"
        if dns.local_only:
            yield f"local=/{dns.domain}/"
    for name, value in dns.txts:
        yield f'txt-record={name},"{value}"' if value else f"txt-record={name}"
    for srv in dns.srvs:
        yield _srv(srv, dns.domain)


def _srv(srv: WantedSrv, domain: str) -> str:
    zone = srv.domain or domain
    name = f"_{srv.service}._{srv.protocol}" + (f".{zone}" if zone else "")
    if not srv.target:
        return f"srv-host={name}"
    return f"srv-host={name},{srv.target},{srv.port or 1},{srv.priority},{srv.weight}"


def _subnet(subnet: WantedSubnet) -> Iterator[str]:
    network = ip_interface(subnet.address).network
    size = network.netmask if isinstance(network, IPv4Network) else network.prefixlen
    if subnet.dhcp:
        # "static": nobody gets an address but whom the host files name.
        yield f"dhcp-range={network.network_address},static,{size},{lease_time(subnet.lease)}"
    elif subnet.version == 6:
        yield f"dhcp-range={network.network_address},ra-only,{size}"
    if subnet.local_ptr:
        yield from (f"local=/{zone}/" for zone in reverse_zones(subnet.network))
    if subnet.tftp_root:
        yield "enable-tftp"
        yield f"tftp-root={subnet.tftp_root}"
    if subnet.boot_file:
        yield f"dhcp-boot={subnet.boot_file}" + (f",,{subnet.boot_server}" if subnet.boot_server else "")
    yield from (f"dhcp-option={option}" for option in subnet.options)


def _announcements(wanted: WantedNetwork, mtu: int) -> Iterator[str]:
    """Router and MTU: of an isolated network nobody is the router."""
    if any(subnet.dhcp and subnet.version == 4 for subnet in wanted.subnets):
        if wanted.mode == "none":
            yield "dhcp-option=option:router"
        # Not every client asks for it, and every one needs it.
        yield f"dhcp-option-force=option:mtu,{mtu}"
    if any(subnet.version == 6 for subnet in wanted.subnets):
        yield "enable-ra"
        yield f"ra-param={wanted.bridge},mtu:{mtu}," + ("0,0" if wanted.mode == "none" else "60")


def lease_time(seconds: int) -> str:
    """In dnsmasq's words; it takes no less than two minutes."""
    return f"{max(seconds, 120)}" if seconds else "infinite"


def reverse_zones(subnet: str) -> list[str]:
    """The zones of a subnet's reverse names, cut at the labels' borders."""
    network = ip_network(subnet)
    bits, whole = (8, network.prefixlen // 8 * 8) if network.version == 4 else (4, network.prefixlen // 4 * 4)
    if whole == network.prefixlen:
        return [_zone(str(network.network_address), network.prefixlen // bits)]
    finer = min(whole + bits, network.max_prefixlen)
    return [_zone(str(part.network_address), finer // bits) for part in network.subnets(new_prefix=finer)]


def _zone(address: str, labels: int) -> str:
    return ".".join(ip_address(address).reverse_pointer.split(".")[-labels - 2 :])


# ---- one file for each guest, so that a change writes one ---------------------------------------------------


def files(wanted: WantedNetwork, guests: Iterable[WantedGuest]) -> dict[str, str]:
    """Every host file: its name below the network's directory, and its text."""
    found = {ZONE: "".join(f"{address} {' '.join(names)}\n" for address, names in wanted.dns.hosts)}
    for guest in guests:
        found |= guest_files(wanted, guest)
    return found


def guest_files(wanted: WantedNetwork, guest: WantedGuest) -> dict[str, str]:
    """The files of one guest."""
    found = {}
    if guest.addresses and any(subnet.dhcp for subnet in wanted.subnets):
        found[f"{DHCP_HOSTS}/{_file(guest.key)}"] = _dhcp_host(guest)
    names = " ".join(name for name in guest.names if is_name(name))
    if names and guest.addresses:
        text = "".join(f"{address} {names}\n" for address in guest.addresses)
        found[f"{NAMES}/{_file(guest.key)}"] = text
    return found


def _file(key: str) -> str:
    return key.replace(":", "-")


def _dhcp_host(guest: WantedGuest) -> str:
    parts = [guest.mac] if guest.mac else [f"id:{guest.client_id}"]
    parts += [f"[{address}]" if ":" in address else address for address in guest.addresses]
    # A host name has no domain here; without one the guest keeps its own.
    parts += [label for name in guest.names[:1] if _is_host(label := name.split(".")[0])]
    if guest.lease:
        parts.append(lease_time(guest.lease))
    return ",".join(parts) + "\n"


def _is_host(label: str) -> bool:
    """dnsmasq refuses a line for a wrong name, and takes some names for something else."""
    return _HOST.fullmatch(label) is not None and _NO_HOST.fullmatch(label) is None


# ---- leases given -------------------------------------------------------------------------------------------


def leases(text: str) -> dict[str, Lease]:
    """What a lease file says, by address; lines that are none are left out."""
    found = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) == 5 and fields[0].isdigit():
            owner = fields[4] if ":" in fields[2] else fields[1]
            found[fields[2]] = Lease(fields[2], owner.lower(), int(fields[0]))
    return found


def in_the_way(owners: Mapping[str, str], guests: Iterable[WantedGuest]) -> frozenset[str]:
    """Addresses of guests that a dnsmasq (address -> owner) holds for others: it would not give them to these.

    A DUID made from a MAC ends with it (RFC 8415, 11.2 and 11.4); whose another one is cannot be seen, so it passes
    unless the guest is known by it."""
    return frozenset(
        address
        for guest in guests
        for address in guest.addresses
        if (owner := owners.get(address)) is not None and not _is_of(owner, guest)
    )


def _is_of(owner: str, guest: WantedGuest) -> bool:
    if guest.client_id:
        return owner == guest.client_id
    made_of_mac = owner.startswith(("00:01:", "00:03:"))
    return owner.endswith(guest.mac) or (len(owner) > len("00:00:00:00:00:00") and not made_of_mac)


def without(text: str, addresses: frozenset[str]) -> str:
    """A lease file less the leases of some addresses."""
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if len(line.split()) != 5 or line.split()[2] not in addresses)
