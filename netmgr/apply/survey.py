"""Which links and addresses this network namespace has.  Knows no network but by our mark."""

from __future__ import annotations

from ipaddress import ip_interface

from pyroute2 import IPRoute

from netmgr.orders import Found
from netmgr.wanted import MARK

_LINK_SCOPE, _HOST_SCOPE = 253, 254


def survey() -> Found:
    """Read it.  OSError or NetlinkError when the kernel refuses."""
    with IPRoute() as route:
        links, ours = {}, set()
        for link in route.get_links():
            alias = str(link.get_attr("IFLA_IFALIAS") or "")
            links[str(link.get_attr("IFLA_IFNAME"))] = (
                alias.removeprefix(MARK) if alias.startswith(MARK) else ""
            )
            if alias.startswith(MARK):
                ours.add(link["index"])
        subnets = {
            str(ip_interface(f"{address}/{found['prefixlen']}").network)
            for found in route.get_addr()
            if found["index"] not in ours and found["scope"] not in (_LINK_SCOPE, _HOST_SCOPE)
            if (address := found.get_attr("IFA_LOCAL") or found.get_attr("IFA_ADDRESS"))
        }
    return Found(links, tuple(sorted(subnets)))
