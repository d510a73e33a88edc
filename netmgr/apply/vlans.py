"""VLANs of bridges' ports and links for one VLAN, by pyroute2: read them, set them.  Decides nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from netmgr import steps
from netmgr.vlan import Link, Wires
from netmgr.wanted import WantedTag

_NATIVE, _UNTAGGED = 2, 4
"""BRIDGE_VLAN_INFO_PVID, BRIDGE_VLAN_INFO_UNTAGGED of linux/if_bridge.h."""
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.EINVAL)


class VlanRefused(OSError):
    """The node's kernel cannot, or has something in the way."""


def look() -> Wires:
    """All links of this network namespace.  OSError or NetlinkError when the kernel refuses."""
    with IPRoute() as route:
        addresses: dict[int, frozenset[str]] = {}
        for found in route.get_addr():
            text = str(found.get_attr("IFA_LOCAL") or found.get_attr("IFA_ADDRESS"))
            addresses[found["index"]] = addresses.get(found["index"], frozenset()) | {text}
        vlans = {found["index"]: _tags(found) for found in route.get_vlans()}
        return Wires(tuple(_link(found, vlans, addresses) for found in route.get_links()))


def _link(found: Any, vlans: dict[int, frozenset[WantedTag]], addresses: dict[int, frozenset[str]]) -> Link:
    index = int(found["index"])
    info = found.get_attr("IFLA_LINKINFO")
    kind = str(info.get_attr("IFLA_INFO_KIND") or "") if info is not None else ""
    data = info.get_attr("IFLA_INFO_DATA") if kind in ("bridge", "vlan") else None
    return Link(
        name=str(found.get_attr("IFLA_IFNAME")),
        index=index,
        kind=kind,
        alias=str(found.get_attr("IFLA_IFALIAS") or ""),
        mac=str(found.get_attr("IFLA_ADDRESS") or ""),
        up=bool(found["flags"] & 1),
        master=int(found.get_attr("IFLA_MASTER") or 0),
        parent=int(found.get_attr("IFLA_LINK") or 0) if kind == "vlan" else 0,
        tag=int(data.get_attr("IFLA_VLAN_ID") or 0) if kind == "vlan" and data else 0,
        filters=bool(data.get_attr("IFLA_BR_VLAN_FILTERING")) if kind == "bridge" and data else False,
        first_tag=int(data.get_attr("IFLA_BR_VLAN_DEFAULT_PVID") or 0) if kind == "bridge" and data else 0,
        vlans=vlans.get(index, frozenset()),
        addresses=addresses.get(index, frozenset()),
    )


def _tags(found: Any) -> frozenset[WantedTag]:
    spec = found.get_attr("IFLA_AF_SPEC")
    infos = spec.get_attrs("IFLA_BRIDGE_VLAN_INFO") if spec is not None else ()
    return frozenset(
        WantedTag(int(info["vid"]), bool(info["flags"] & _NATIVE), bool(info["flags"] & _UNTAGGED))
        for info in infos
    )


# ---- performing -------------------------------------------------------------------------------------------


def _index(route: IPRoute, name: str) -> int:
    found = route.link_lookup(ifname=name)
    if not found:
        raise VlanRefused(f"link {name} is not there")
    return int(found[0])


def _create_switch(step: steps.CreateSwitch, route: IPRoute) -> None:
    values = {"kind": "bridge", "br_stp_state": 0, "br_forward_delay": 0}
    if not step.filters:
        route.link("add", ifname=step.name, **values)
        return
    try:
        route.link("add", ifname=step.name, br_vlan_filtering=1, br_vlan_default_pvid=0, **values)
    except NetlinkError as error:
        if error.code in _UNSUPPORTED:
            raise _cannot_filter() from None
        raise
    (made,) = route.get_links(index=_index(route, step.name))
    data = made.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA")
    if not data.get_attr("IFLA_BR_VLAN_FILTERING"):
        # Without CONFIG_BRIDGE_VLAN_FILTERING some kernels take the words and leave them.
        route.link("del", index=made["index"])
        raise _cannot_filter()


def _cannot_filter() -> VlanRefused:
    return VlanRefused(f"this kernel's bridge cannot filter VLANs (its release is {os.uname().release})")


def _release(step: steps.ReleaseLink, route: IPRoute) -> None:
    route.link("set", index=_index(route, step.name), master=0)


def _filter(step: steps.FilterVlans, route: IPRoute) -> None:
    index = _index(route, step.name)
    route.link("set", index=index, kind="bridge", br_vlan_filtering=1, br_vlan_default_pvid=0)


def _create_link(step: steps.CreateVlanLink, route: IPRoute) -> None:
    parent = _index(route, step.device)
    try:
        route.link("add", ifname=step.name, kind="vlan", link=parent, vlan_id=step.tag)
    except NetlinkError as error:
        if error.code == errno.EEXIST:
            text = f"VLAN {step.tag} of {step.device} is in use by another link of this node"
            raise VlanRefused(text) from None
        if error.code in _UNSUPPORTED:
            text = (
                f"this kernel has no links for VLANs (its release is {os.uname().release}, the module 8021q)"
            )
            raise VlanRefused(text) from None
        raise


def _set_vlans(step: steps.SetVlans, route: IPRoute) -> None:
    index = _index(route, step.port)
    for tag in step.gone:
        route.vlan_filter("del", index=index, vlan_info={"vid": tag})
    for there in step.there:
        flags = _NATIVE * there.native | _UNTAGGED * there.untagged
        route.vlan_filter("add", index=index, vlan_info={"vid": there.id, "flags": flags})


PERFORM: dict[type, Callable[[Any, IPRoute], None]] = {
    steps.CreateSwitch: _create_switch,
    steps.FilterVlans: _filter,
    steps.ReleaseLink: _release,
    steps.CreateVlanLink: _create_link,
    steps.SetVlans: _set_vlans,
}
