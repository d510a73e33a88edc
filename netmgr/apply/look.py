"""The process that answers a Question about its node: reads links, entries, rules, sends the probes.  Changes nothing.

One process for each question, beside the one that makes networks: what that one does, or that it hangs, is no matter
here.  The question comes on standard input, the Sight goes to standard output.
"""

from __future__ import annotations

import argparse
import ipaddress
import socket
import sys
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from netmgr.apply import entries, filters, frames, links
from netmgr.nft import FAMILIES, PREFIX
from netmgr.plan import ANY_MAC
from netmgr.seen import Asked, Question, Rules, SeenLink, Sight, Stranger, Way, decode_question, encode
from netmgr.vlan import tap_mac

_FORWARDING = 3
"""State of a port: linux/if_bridge.h, BR_STATE_FORWARDING."""
_LOWER_UP = 1 << 16
_HOOKS = ("prerouting", "forward", "postrouting")
_CLOSING = ("drop", "reject")


def look(question: Question, state_dir: Path) -> Sight:
    """Facts first, then the probes, which take their time.  OSError, NetlinkError when the kernel refuses."""
    tables = entries.read()
    with IPRoute() as route:
        all_links = _links(route)
        addresses = _addresses(route)
        ways = {to: _way(route, to) for to in question.ways}
    index = {link.name: number for number, link in all_links.items()}
    bridges = {asked.bridge: index.get(asked.bridge, -1) for asked in question.networks}
    overlays = {asked.overlay: index.get(asked.overlay, -1) for asked in question.networks}
    macs = {ANY_MAC, *(mac for asked in question.networks for mac in asked.macs)}
    names = {*question.links, *bridges, *overlays}
    names |= {link.name for link in all_links.values() if link.mac in map(tap_mac, macs)}
    crossing, probe = question.crossing, question.probe
    there = {link.name for link in all_links.values()}
    return Sight(
        links={link.name: link for link in all_links.values() if link.name in names},
        addresses={name: tuple(sorted(addresses.get(at, ()))) for name, at in bridges.items()},
        remote={
            name: {mac: tuple(sorted(to)) for mac, to in tables.remote.get(at, {}).items() if mac in macs}
            for name, at in overlays.items()
        },
        bridged={name: tuple(sorted(tables.bridged.get(at, set()) & macs)) for name, at in overlays.items()},
        neighbours={
            name: {address: mac for address, mac in tables.neighbours.get(at, {}).items() if mac in macs}
            for name, at in bridges.items()
        },
        rules={asked.uuid: _rules(asked, state_dir) for asked in question.networks},
        strangers=_strangers(),
        ways=ways,
        forwards=tuple(version for version, path in _FORWARDS.items() if _is_on(path)),
        filters_bridged=_is_on("net/bridge/bridge-nf-call-iptables"),
        crossed=frames.cross(crossing) if crossing is not None else None,
        probed=probe is not None and probe.bridge in there,
        replied=frames.ask(probe) if probe is not None and probe.bridge in there else "",
    )


_FORWARDS = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}


def _is_on(path: str) -> bool:
    try:
        return (links.KERNEL / path).read_text().strip() != "0"
    except OSError:
        return False


# ---- links and routes -------------------------------------------------------------------------------------


def _links(route: IPRoute) -> dict[int, SeenLink]:
    found = list(route.get_links())
    names = {int(link["index"]): str(link.get_attr("IFLA_IFNAME")) for link in found}
    return {int(link["index"]): _link(link, names) for link in found}


def _link(found: Any, names: dict[int, str]) -> SeenLink:
    info = found.get_attr("IFLA_LINKINFO")
    kind = str(info.get_attr("IFLA_INFO_KIND") or "") if info is not None else ""
    data: Any = info.get_attr("IFLA_INFO_DATA") if info is not None and kind == "vxlan" else None
    master = names.get(int(found.get_attr("IFLA_MASTER") or 0), "")
    bridged = info is not None and bool(master) and info.get_attr("IFLA_INFO_SLAVE_KIND") == "bridge"
    port: Any = info.get_attr("IFLA_INFO_SLAVE_DATA") if info is not None and bridged else None
    return SeenLink(
        name=str(found.get_attr("IFLA_IFNAME")),
        kind=kind,
        alias=str(found.get_attr("IFLA_IFALIAS") or ""),
        mac=str(found.get_attr("IFLA_ADDRESS") or ""),
        up=bool(found["flags"] & 1),
        carrier=bool(found["flags"] & _LOWER_UP),
        mtu=int(found.get_attr("IFLA_MTU") or 0),
        master=master,
        forwarding=bridged and port.get_attr("IFLA_BRPORT_STATE") == _FORWARDING,
        isolated=bridged and bool(port.get_attr("IFLA_BRPORT_ISOLATED")),
        vni=int(data.get_attr("IFLA_VXLAN_ID")) if data else 0,
        local=str(data.get_attr("IFLA_VXLAN_LOCAL") or data.get_attr("IFLA_VXLAN_LOCAL6") or "")
        if data
        else "",
        port=int(data.get_attr("IFLA_VXLAN_PORT")) if data else 0,
    )


def _addresses(route: IPRoute) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for one in route.get_addr():
        text = one.get_attr("IFA_LOCAL") or one.get_attr("IFA_ADDRESS")
        found.setdefault(int(one["index"]), set()).add(f"{text}/{one['prefixlen']}")
    return found


def _way(route: IPRoute, to: str) -> Way:
    family = socket.AF_INET6 if ipaddress.ip_address(to).version == 6 else socket.AF_INET
    try:
        found = route.route("get", dst=to, family=family)[0]
    except NetlinkError as error:
        return Way(problem=str(error.args[-1]))
    device = route.get_links(int(found.get_attr("RTA_OIF")))[0]
    return Way(
        device=str(device.get_attr("IFLA_IFNAME")),
        source=str(found.get_attr("RTA_PREFSRC") or ""),
        gateway=str(found.get_attr("RTA_GATEWAY") or ""),
        mtu=int(device.get_attr("IFLA_MTU") or 0),
    )


# ---- rules ------------------------------------------------------------------------------------------------


def _rules(asked: Asked, state_dir: Path) -> Rules:
    there = {name.partition(" ")[0] for name in filters.tables(asked.bridge)}
    script, bridge = filters.loaded(state_dir / "networks" / f"{asked.uuid}.rules")
    families = tuple(family for family in FAMILIES if family in there)
    return Rules(families, script if bridge == asked.bridge else "")


def _strangers() -> tuple[Stranger, ...]:
    """Base chains on a packet's way that are not ours."""
    listed = filters.listing()
    chains = {_key(chain, "name"): chain for item in listed if (chain := item.get("chain")) and _meets(chain)}
    drops = dict.fromkeys(chains, 0)
    for item in listed:
        rule = item.get("rule")
        if rule and (key := _key(rule, "chain")) in chains:
            drops[key] += any(verdict in part for part in rule.get("expr", ()) for verdict in _CLOSING)
    return tuple(
        Stranger(" ".join(key), str(chain["hook"]), chain.get("policy") == "drop", drops[key])
        for key, chain in chains.items()
    )


def _meets(chain: dict[str, Any]) -> bool:
    return chain.get("hook") in _HOOKS and not str(chain["table"]).startswith(PREFIX)


def _key(item: dict[str, Any], name: str) -> tuple[str, str, str]:
    return str(item["family"]), str(item["table"]), str(item[name])


def main() -> None:
    """One question."""
    parser = argparse.ArgumentParser(prog="netmgr-look", description=__doc__)
    parser.add_argument("--state", type=Path, required=True)
    options = parser.parse_args()
    question = decode_question(sys.stdin.buffer.read())
    try:
        sight = look(question, options.state)
    except (OSError, NetlinkError, filters.RulesRefused) as error:
        sight = Sight(problem=str(error) or type(error).__name__)
    sys.stdout.buffer.write(encode(sight))


if __name__ == "__main__":
    main()
