"""Guests on networks: leases, addresses of interfaces, interfaces that come while it runs.  Wire to use case and back.

The work is in clusterhost.service.guests and addresses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clusterhost.frontend.libvirt import errors
from clusterhost.frontend.libvirt.dispatch import answer, decoded, finish, run_struct
from clusterhost.frontend.libvirt.handlers.pinning import Question
from clusterhost.frontend.libvirt.passthrough import relay_domain, relay_view
from clusterhost.frontend.libvirt.route import Route, Run
from clusterhost.model.errors import NodeError
from clusterhost.service.addresses import Handed
from clusterhost.service.disk_plugs import DiskPlugs
from clusterhost.service.guests import Plugged
from compat.libvirt import messages
from compat.libvirt.constants import REMOTE_NETWORK_DHCP_LEASES_MAX, VirDomainInterfaceAddressesSource
from compat.libvirt.events import Call
from compat.libvirt.schema import BY_NAME
from compat.libvirt.xdr import Message
from netmgr.errors import BadValue
from netmgr.xml.values import parse_mac

if TYPE_CHECKING:
    from clusterhost.frontend.libvirt.session import Session

GET_LEASES = BY_NAME["remote:NETWORK_GET_DHCP_LEASES"]
INTERFACE = b"<interface"
DISK = b"<disk"
BY_ALIAS = "DOMAIN_DETACH_DEVICE_ALIAS"
TYPES = {4: 0, 6: 1}
"""virIPAddrType"""
OURS = (VirDomainInterfaceAddressesSource.LEASE, VirDomainInterfaceAddressesSource.ARP)


def get_dhcp_leases(session: Session, args: Any) -> Any:
    """NETWORK_GET_DHCP_LEASES."""
    if args.flags:
        raise errors.unsupported_flags(args.flags, GET_LEASES)
    networking = session.world.networking
    net = networking.networks.by_uuid(args.net.uuid)
    mac = _mac(args.mac) if args.mac else ""
    found = [each for each in networking.addresses.handed(net.uuid, mac, session.view or "") if each.dhcp]
    if len(found) > REMOTE_NETWORK_DHCP_LEASES_MAX:
        limit = REMOTE_NETWORK_DHCP_LEASES_MAX
        raise errors.bad_count(f"Number of leases is {len(found)}, which exceeds max limit: {limit}")
    leases = [_lease(net.shown.bridge.name, each) for each in found] if args.need_results else []
    return messages.RemoteNetworkGetDhcpLeasesRet(leases=leases, ret=len(found))


def _mac(text: str) -> str:
    try:
        return parse_mac(text)
    except BadValue:
        raise errors.invalid_mac(text) from None


def _lease(bridge: str, handed: Handed) -> messages.RemoteNetworkDhcpLease:
    return messages.RemoteNetworkDhcpLease(
        iface=bridge,
        expirytime=int(handed.expires),
        type=TYPES[handed.version],
        mac=handed.mac,
        iaid=None,
        ipaddr=handed.address,
        prefix=handed.prefix,
        hostname=handed.name or None,
        clientid=None,
    )


def run_leases(session: Session, call: Call, route: Route) -> None:
    """NETWORK_GET_DHCP_LEASES in a node's view: of a network of ours, those of that node's guests; the bridge that
    libvirtd knows there has none."""
    net = session.world.networking.networks.found(decoded(route, call.payload).net.uuid)
    if net is not None and net.active and net.shown.mode.has_own_bridge:
        run_struct(session, call, route)
    else:
        relay_view(session, call, route)


async def interface_addresses(session: Session, args: Any) -> Message | bytes:
    """Those of leases and ARP: ours, beside those of networks that are the node's own affair."""
    question = Question(session, "DOMAIN_INTERFACE_ADDRESSES", args)
    # The bridge's neighbours are what we say; some libvirtds cannot read the table of some kernels at all.
    arp = args.source == VirDomainInterfaceAddressesSource.ARP
    refused, payload = None, b""
    try:
        payload = await question.asked(args)
    except NodeError as error:
        if not (arp and question.domain.active):
            raise
        refused = error
    plugged = await session.world.networking.guests.plugged(question.domain)
    found = {each.device: _interface(each, arp) for each in plugged if each.addresses}
    if refused is not None and not found:
        raise refused
    if not found:
        return payload
    own = messages.RemoteDomainInterfaceAddressesRet.from_bytes(payload).ifaces if payload else []
    by_name = {each.name: each for each in own}
    return messages.RemoteDomainInterfaceAddressesRet(ifaces=list({**by_name, **found}.values()))


def _interface(plugged: Plugged, arp: bool) -> messages.RemoteDomainInterface:
    """A table of neighbours has no prefixes: libvirt says 0."""
    addresses = [
        messages.RemoteDomainIpAddr(TYPES[each.version], each.address, 0 if arp else each.prefix)
        for each in plugged.addresses
    ]
    return messages.RemoteDomainInterface(name=plugged.device, hwaddr=plugged.mac, addrs=addresses)


def run_addresses(session: Session, call: Call, route: Route) -> None:
    """DOMAIN_INTERFACE_ADDRESSES: of leases and ARP ours, what an agent tells is the node's."""
    args = decoded(route, call.payload)
    if args.source in OURS:
        session.spawn(call, interface_addresses(session, args), lambda done: answer(session, call, done))
    else:
        relay_domain(session, call, route)


def run_plug(session: Session, call: Call, route: Route) -> None:
    """DOMAIN_ATTACH_DEVICE, DOMAIN_DETACH_DEVICE and their like: what is neither an interface nor a disk that comes
    is the node's alone."""
    name = route.procedure.name
    if DISK in call.payload and "DETACH" not in name and not session.readonly and not call.fds:
        plugs, uuid = DiskPlugs(session.world.context), decoded(route, call.payload).dom.uuid
        plug = plugs.plug(session.caller, route.procedure, call.payload, uuid)
        session.spawn(call, plug, lambda done: finish(session, call, route, done))
        return
    if (INTERFACE not in call.payload and route.procedure.name != BY_ALIAS) or call.fds:
        relay_domain(session, call, route)
        return
    guests = session.world.networking.guests
    use_case = guests.unplug if "DETACH" in route.procedure.name else guests.plug
    work = use_case(session.caller, route.procedure, call.payload, decoded(route, call.payload).dom.uuid)
    session.spawn(call, work, lambda done: finish(session, call, route, done))


GUESTS: dict[str, Run] = {
    "remote:DOMAIN_INTERFACE_ADDRESSES": run_addresses,
    "remote:DOMAIN_ATTACH_DEVICE": run_plug,
    "remote:DOMAIN_ATTACH_DEVICE_FLAGS": run_plug,
    "remote:DOMAIN_UPDATE_DEVICE_FLAGS": run_plug,
    "remote:DOMAIN_DETACH_DEVICE": run_plug,
    "remote:DOMAIN_DETACH_DEVICE_FLAGS": run_plug,
    "remote:DOMAIN_DETACH_DEVICE_ALIAS": run_plug,
}
"""Rows of ROUTES, in both views."""
