"""What a node shall have of a network: the document, the leases and the guests' places, put together.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from clusterhost.model.cluster import format_uuid
from clusterhost.service.networks import Net
from netmgr import macs, tags
from netmgr.model import Dhcp, DnsDomain, Ip, Network, Rate
from netmgr.wanted import (
    WantedDns,
    WantedGuest,
    WantedNat,
    WantedNetwork,
    WantedRate,
    WantedRoute,
    WantedSrv,
    WantedSubnet,
)

LEASE_SECONDS = 3600
"""libvirt's own, where a range names no time."""


@dataclass(frozen=True, slots=True)
class Underlay:
    """A node's address among the nodes, and those of the others.  mtu: the least of all nodes, in bytes, 0 when none is
    known."""

    local: str
    peers: tuple[str, ...]
    mtu: int = 0


def wanted(net: Net, underlay: Underlay, guests: Sequence[WantedGuest]) -> WantedNetwork:
    """Of a network that is active and has a bridge of ours; guests: with their places as this node sees them."""
    network = net.live
    assert network is not None
    if tags.is_trunked(network):
        return _trunked(net, network, guests)
    forward = network.forward
    return WantedNetwork(
        uuid=format_uuid(net.uuid),
        name=net.name,
        serial=net.row.serial,
        vni=net.row.vni,
        bridge=network.bridge.name,
        mac=network.mac,
        local=underlay.local,
        peers=underlay.peers,
        mtu=network.mtu,
        carried=underlay.mtu,
        mode=network.mode.value,
        devices=forward.interfaces or ((forward.dev,) if forward.dev else ()),
        nat=_nat(network),
        subnets=tuple(_subnet(ip) for ip in network.ips if ip.address is not None),
        routes=tuple(
            WantedRoute(str(route.subnet), str(route.gateway), route.metric) for route in network.routes
        ),
        dns=_dns(network),
        options=network.options,
        isolated=bool(network.isolated),
        inbound=_rate(network.bandwidth.inbound if network.bandwidth else None),
        outbound=_rate(network.bandwidth.outbound if network.bandwidth else None),
        guests=(*guests, *reservations(network, {guest.mac for guest in guests})),
    )


def _trunked(net: Net, network: Network, guests: Sequence[WantedGuest]) -> WantedNetwork:
    """Of one on VLANs of a device, as the document names that."""
    return WantedNetwork(
        uuid=format_uuid(net.uuid),
        name=net.name,
        serial=net.row.serial,
        vni=net.row.vni,
        bridge=tags.bridge_name(network),
        mac="",
        mode=network.mode.value,
        trunk=tags.trunk(network),
        guests=tuple(guests),
    )


def reservations(network: Network, known: Iterable[str]) -> Iterable[WantedGuest]:
    """<host> entries of guests that are not there: the DHCP servers know them all the same."""
    seen = set(known)
    for ip in network.ips:
        for host in ip.dhcp.hosts if ip.dhcp else ():
            owner = host.mac or macs.mac_in_client_id(host.id)
            if owner not in seen and host.ip is not None and (host.mac or host.id):
                yield WantedGuest(
                    mac=host.mac,
                    addresses=(str(host.ip),),
                    names=(host.name,) if host.name else (),
                    client_id=macs.whole_client_id(host.id),
                    lease=host.lease.seconds if host.lease else 0,
                    isolated=bool(network.isolated),
                )


def lease_seconds(dhcp: Dhcp, mac: str = "") -> int:
    """How long an address is let at a time, 0 for ever: of a MAC's <host> entry, else of the first range that says."""
    for host in dhcp.hosts:
        if mac and host.mac == mac and host.lease is not None:
            return host.lease.seconds
    times = [found.lease.seconds for found in dhcp.ranges if found.lease is not None]
    return times[0] if times else LEASE_SECONDS


def _rate(rate: Rate | None) -> WantedRate:
    return WantedRate(rate.average, rate.peak, rate.burst) if rate is not None else WantedRate()


def _nat(network: Network) -> WantedNat:
    nat = network.forward.nat
    if nat is None:
        return WantedNat()
    found = WantedNat(ipv6=bool(nat.ipv6))
    if nat.addresses is not None:
        found = WantedNat(str(nat.addresses.start), str(nat.addresses.end), ipv6=found.ipv6)
    if nat.ports is not None:
        found = WantedNat(found.start, found.end, nat.ports.start, nat.ports.end, found.ipv6)
    return found


def _subnet(ip: Ip) -> WantedSubnet:
    dhcp = ip.dhcp or Dhcp()
    return WantedSubnet(
        address=f"{ip.address}/{ip.bits}",
        dhcp=bool(dhcp.ranges or dhcp.hosts),
        lease=lease_seconds(dhcp),
        boot_file=dhcp.bootp.file if dhcp.bootp else "",
        boot_server=str(dhcp.bootp.server or "") if dhcp.bootp else "",
        tftp_root=ip.tftp_root,
        local_ptr=bool(ip.local_ptr),
    )


def _dns(network: Network) -> WantedDns:
    dns, domain = network.dns, network.domain or DnsDomain("")
    return WantedDns(
        enable=dns.enable is not False,
        domain=domain.name,
        local_only=bool(domain.local_only),
        forward_plain_names=dns.forward_plain_names is not False,
        forwarders=tuple((found.domain, str(found.addr or "")) for found in dns.forwarders),
        hosts=tuple((str(host.ip), host.names) for host in dns.hosts),
        srvs=tuple(
            WantedSrv(
                srv.service,
                srv.protocol,
                srv.domain,
                srv.target or "",
                srv.port or 0,
                srv.priority or 0,
                srv.weight or 0,
            )
            for srv in dns.srvs
        ),
        txts=tuple((txt.name, txt.value) for txt in dns.txts),
    )
