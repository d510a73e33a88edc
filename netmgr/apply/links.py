"""Links, addresses, routes and kernel settings of this network namespace, by pyroute2.  Decides nothing."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from netmgr import steps
from netmgr.apply import entries, queues, vlans
from netmgr.isolation import Tap
from netmgr.plan import Actual, Link, settings
from netmgr.shaping import Queue
from netmgr.wanted import MARK, WantedNetwork, temporary_name, vxlan_mtu

KERNEL = Path("/proc/sys")
_NODAD = 0x02
_LINK_SCOPE = 253


class LinkMissing(Exception):
    """A step needs a link that is not there (any more)."""


@dataclass(frozen=True, slots=True)
class Seen:
    """All that this namespace has which may concern us, read at one time.  Links by index.

    addresses: of bridges, with prefix; routes: by bridges; holders: address -> the link that has it;
    queues: of bridges."""

    links: tuple[Link, ...]
    tables: entries.Tables
    addresses: dict[int, frozenset[str]]
    routes: dict[int, frozenset[tuple[str, str, int]]]
    holders: dict[str, int]
    queues: dict[int, Queue]

    def named(self, name: str) -> Link | None:
        """The link of a name."""
        return next((link for link in self.links if link.name == name), None)


def look() -> Seen:
    """Read the namespace.  OSError or NetlinkError when the kernel refuses."""
    with IPRoute() as route:
        links = tuple(_link(found) for found in route.get_links())
        shaped = {link.index: queues.read(route, link.index) for link in links if link.queued}
        bridges = {link.index for link in links if link.kind == "bridge"}
        holders: dict[str, int] = {}
        addresses: dict[int, frozenset[str]] = {}
        for found in route.get_addr():
            index, text = found["index"], str(found.get_attr("IFA_LOCAL") or found.get_attr("IFA_ADDRESS"))
            holders.setdefault(text, index)
            if index in bridges and found["scope"] != _LINK_SCOPE:
                addresses[index] = addresses.get(index, frozenset()) | {f"{text}/{found['prefixlen']}"}
        routes: dict[int, frozenset[tuple[str, str, int]]] = {}
        for family in (socket.AF_INET, socket.AF_INET6):
            for found in route.get_routes(family=family):
                index, gateway = found.get_attr("RTA_OIF"), found.get_attr("RTA_GATEWAY")
                if index in bridges and gateway:
                    text = found.get_attr("RTA_DST") or ("::" if family == socket.AF_INET6 else "0.0.0.0")
                    key = (f"{text}/{found['dst_len']}", str(gateway), _metric(found, family))
                    routes[index] = routes.get(index, frozenset()) | {key}
    return Seen(links, entries.read(), addresses, routes, holders, shaped)


def actual(wanted: WantedNetwork, seen: Seen) -> Actual:
    """What of it is of one network: links alone, no rules, no server."""
    bridge, overlay = seen.named(wanted.bridge), seen.named(wanted.overlay)
    index = bridge.index if bridge is not None else -1
    temporary = {temporary_name(wanted.uuid, what) for what in ("bridge", "overlay")}
    ours = [link for link in seen.links if link.alias == wanted.mark or link.name in temporary]
    strays = tuple(link for link in ours if link not in (bridge, overlay))
    going = {0, *(link.index for link in strays)}
    at_overlay = overlay.index if overlay is not None else -1
    return Actual(
        bridge=bridge,
        overlay=overlay,
        strays=strays,
        ports=frozenset(link.name for link in seen.links if link.master == index),
        loose=frozenset(link.name for link in seen.links if link.master in going),
        addresses=seen.addresses.get(index, frozenset()),
        routes=seen.routes.get(index, frozenset()),
        remote=seen.tables.remote.get(at_overlay, {}),
        bridged=frozenset(seen.tables.bridged.get(at_overlay, ())),
        neighbours=seen.tables.neighbours.get(index, {}),
        taps=tuple(
            Tap(link.name, link.mac, link.isolated)
            for link in seen.links
            if (link.master == index and link.alias != wanted.mark) or link.master in going
        ),
        queue=seen.queues.get(index),
        unset=frozenset(_unset(wanted)),
    )


def guests_of(seen: Seen, found: Actual, mark: str) -> dict[str, int]:
    """Ports of a network's bridge, or of one that it had under another name, less our own; name -> index."""
    bridges = {link.index for link in (found.bridge, *found.strays) if link is not None}
    return {link.name: link.index for link in seen.links if link.master in bridges and link.alias != mark}


def vxlan_room(seen: Seen, local: str) -> int:
    """Bytes that fit through an overlay on the link that has an address.  LinkMissing when none has."""
    index = seen.holders.get(local)
    for link in seen.links:
        if link.index == index:
            return vxlan_mtu(link.mtu, local)
    raise LinkMissing(f"no link of this node has the underlay's address {local}")


def marked(seen: Seen) -> dict[str, tuple[str, ...]]:
    """uuid -> names of links that carry our mark for it."""
    found: dict[str, tuple[str, ...]] = {}
    for link in seen.links:
        if link.alias.startswith(MARK):
            uuid = link.alias.removeprefix(MARK)
            found[uuid] = (*found.get(uuid, ()), link.name)
    return found


def _metric(found: Any, family: int) -> int:
    metric = int(found.get_attr("RTA_PRIORITY") or 0)
    # The kernel gives IPv6 routes this one when none is asked for.
    return 0 if family == socket.AF_INET6 and metric == 1024 else metric


def _link(found: Any) -> Link:
    info = found.get_attr("IFLA_LINKINFO")
    kind = str(info.get_attr("IFLA_INFO_KIND") or "") if info is not None else ""
    data = info.get_attr("IFLA_INFO_DATA") if kind == "vxlan" else None
    port = info.get_attr("IFLA_INFO_SLAVE_DATA") if info is not None else None
    return Link(
        name=str(found.get_attr("IFLA_IFNAME")),
        index=int(found["index"]),
        kind=kind,
        alias=str(found.get_attr("IFLA_IFALIAS") or ""),
        mac=str(found.get_attr("IFLA_ADDRESS") or ""),
        mtu=int(found.get_attr("IFLA_MTU") or 0),
        up=bool(found["flags"] & 1),
        master=int(found.get_attr("IFLA_MASTER") or 0),
        vni=int(data.get_attr("IFLA_VXLAN_ID")) if data is not None else 0,
        local=str(data.get_attr("IFLA_VXLAN_LOCAL") or data.get_attr("IFLA_VXLAN_LOCAL6") or "")
        if data
        else "",
        port=int(data.get_attr("IFLA_VXLAN_PORT")) if data is not None else 0,
        learning=_learns(data, port),
        suppress=bool(port.get_attr("IFLA_BRPORT_NEIGH_SUPPRESS")) if kind == "vxlan" and port else False,
        isolated=bool(port and port.get_attr("IFLA_BRPORT_ISOLATED")),
        queued=kind == "bridge" and found.get_attr("IFLA_QDISC") == queues.KIND,
    )


def _learns(vxlan: Any, port: Any) -> bool:
    if vxlan is None:
        return False
    return bool(vxlan.get_attr("IFLA_VXLAN_LEARNING") or (port and port.get_attr("IFLA_BRPORT_LEARNING")))


def _unset(wanted: WantedNetwork) -> Iterator[tuple[str, str]]:
    for path, value in settings(wanted).items():
        try:
            if (KERNEL / path).read_text().strip() != value:
                yield path, value
        except FileNotFoundError:
            continue  # a link that is not there, or a kernel without IPv6


# ---- performing -------------------------------------------------------------------------------------------


def perform(step: steps.Step, route: IPRoute) -> None:
    """One step that concerns links.  KeyError when it does not; NetlinkError, OSError, LinkMissing."""
    PERFORM[type(step)](step, route)


def _index(route: IPRoute, name: str) -> int:
    found = route.link_lookup(ifname=name)
    if not found:
        raise LinkMissing(f"link {name} is not there")
    return int(found[0])


def _delete(step: steps.DeleteLink, route: IPRoute) -> None:
    found = route.link_lookup(ifname=step.name)
    if found:
        route.link("del", index=found[0])


def _create_bridge(step: steps.CreateBridge, route: IPRoute) -> None:
    route.link(
        "add",
        ifname=step.name,
        kind="bridge",
        address=step.mac,
        mtu=step.mtu,
        br_stp_state=0,
        br_forward_delay=0,
    )


def _create_overlay(step: steps.CreateOverlay, route: IPRoute) -> None:
    local = {"vxlan_local6" if ":" in step.local else "vxlan_local": step.local}
    values = {"vxlan_id": step.vni, "vxlan_port": step.port, "vxlan_learning": 0, **local}
    try:
        route.link("add", ifname=step.name, kind="vxlan", mtu=step.mtu, **values)
    except NetlinkError as error:
        if error.code == errno.EEXIST:
            raise OSError(
                errno.EEXIST, f"VNI {step.vni} on UDP port {step.port} is in use by another link of this node"
            ) from None
        raise


def _mark(step: steps.MarkLink, route: IPRoute) -> None:
    route.link("set", index=_index(route, step.name), ifalias=step.alias)


def _rename(step: steps.RenameLink, route: IPRoute) -> None:
    route.link("set", index=_index(route, step.name), ifname=step.to)


def _set(step: steps.SetLink, route: IPRoute) -> None:
    values: dict[str, Any] = {}
    if step.mac:
        values["address"] = step.mac
    if step.mtu:
        values["mtu"] = step.mtu
    if step.master:
        values["master"] = _index(route, step.master)
    if step.up:
        values["state"] = "up"
    route.link("set", index=_index(route, step.name), **values)


def _port(step: steps.SetPort, route: IPRoute) -> None:
    route.brport("set", index=_index(route, step.name), learning=0, neigh_suppress=int(step.suppress))


def _apart(step: steps.SetApart, route: IPRoute) -> None:
    route.brport("set", index=_index(route, step.name), isolated=int(step.apart))


def _queue(step: steps.SetQueue, route: IPRoute) -> None:
    queue = Queue(step.rate, step.ceil, step.burst) if step.rate else None
    queues.write(route, _index(route, step.name), queue)


def _kernel(step: steps.SetKernel, route: IPRoute) -> None:
    path = KERNEL / step.path
    if path.exists():  # a kernel without IPv6 has nothing to be set
        path.write_text(step.value)


def _address(step: steps.Address, route: IPRoute) -> None:
    address, _, prefix = step.address.partition("/")
    values: dict[str, Any] = {"index": _index(route, step.link), "address": address, "prefixlen": int(prefix)}
    if step.gone:
        with _allowing(errno.EADDRNOTAVAIL):
            route.addr("del", **values)
        return
    if ":" in address:
        values["flags"] = _NODAD
    with _allowing(errno.EEXIST):
        route.addr("add", **values)


def _route(step: steps.Route, route: IPRoute) -> None:
    values: dict[str, Any] = {
        "dst": step.destination,
        "gateway": step.gateway,
        "oif": _index(route, step.link),
    }
    if step.metric:
        values["priority"] = step.metric
    with _allowing(errno.EEXIST, errno.ESRCH):
        route.route("del" if step.gone else "add", **values)


def _entries(step: steps.SetEntries, route: IPRoute) -> None:
    entries.write(step.entries, _index(route, step.bridge), _index(route, step.overlay))


class _allowing:  # noqa: N801 -- reads as a word
    """Let an answer of the kernel pass that says: it is so already."""

    def __init__(self, *codes: int) -> None:
        self._codes = codes

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        return isinstance(error, NetlinkError) and error.code in self._codes


PERFORM: dict[type, Callable[[Any, IPRoute], None]] = {
    steps.DeleteLink: _delete,
    steps.CreateBridge: _create_bridge,
    steps.CreateOverlay: _create_overlay,
    steps.MarkLink: _mark,
    steps.RenameLink: _rename,
    steps.SetLink: _set,
    steps.SetPort: _port,
    steps.SetApart: _apart,
    steps.SetQueue: _queue,
    steps.SetKernel: _kernel,
    steps.Address: _address,
    steps.Route: _route,
    steps.SetEntries: _entries,
    **vlans.PERFORM,
}
