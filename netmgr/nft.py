"""The nftables rules of a network: forwarding, NAT and isolation, and what may cross the overlay.  Pure."""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address

from netmgr import isolation, shaping
from netmgr.isolation import Ports
from netmgr.wanted import WantedGuest, WantedNetwork, WantedSubnet

PREFIX = "clusterhost-"
"""Of the names of all our tables."""
FAMILIES = ("inet", "bridge")
"""A network has a table of one name in each."""

NO_PORTS = Ports()
_MULTICAST = ("224.0.0.0/24", "255.255.255.255")
_REJECT = "reject with icmpx type port-unreachable"


def table_name(bridge: str) -> str:
    """The name of our tables; signs that nft's grammar has no place for are spelt in hexadecimal."""
    return PREFIX + re.sub(r"[^A-Za-z0-9_.-]", lambda sign: f"/{ord(sign[0]):x}", bridge)


def removal(bridge: str) -> str:
    """A script that takes the tables away, whether they are there or not, in one transaction."""
    name = table_name(bridge)
    return "".join(f"add table {family} {name}\ndelete table {family} {name}\n" for family in FAMILIES)


def ruleset(wanted: WantedNetwork, guests: tuple[WantedGuest, ...] = (), ports: Ports = NO_PORTS) -> str:
    """A script that replaces the tables in one transaction; `guests` and `ports` matter by their isolation alone."""
    name = table_name(wanted.bridge)
    tables = (("inet", _routed(wanted)), ("bridge", _overlay(wanted, isolation.rules(wanted, guests, ports))))
    return removal(wanted.bridge) + "".join(
        f"table {family} {name} {{\n" + "".join(f"\t{line}\n" for line in lines) + "}\n"
        for family, lines in tables
    )


# ---- between networks -------------------------------------------------------------------------------------


def _routed(wanted: WantedNetwork) -> list[str]:
    lines = _policed(wanted) + _chain("forward", "forward", 0, _forward(wanted))
    if wanted.mode == "nat":
        rules = [rule for subnet in wanted.subnets for rule in _masquerade(wanted, subnet)]
        lines += _chain("postrouting", "postrouting", 100, rules, kind="nat")
    return lines


def _policed(wanted: WantedNetwork) -> list[str]:
    """What guests send to the node and beyond, against one limit.

    Not where the frame leaves the bridge: where bridged frames are shown to these hooks (br_netfilter) they have the
    bridge on both sides."""
    limit = shaping.police(wanted.outbound)
    if not limit:
        return []
    inside, drop = f'iifname "{wanted.bridge}"', 'limit name "outbound" drop'
    return [
        f"limit outbound {{ {limit} }}",
        *_chain("police-forward", "forward", -10, [f'{inside} oifname != "{wanted.bridge}" {drop}']),
        *_chain("police-input", "input", -10, [f"{inside} {drop}"]),
    ]


def _forward(wanted: WantedNetwork) -> list[str]:
    """As libvirt: out of our subnets, in for answers (nat) or for our subnets (route); the rest is refused."""
    if wanted.mode == "open":
        return []
    inside, outside = f'iifname "{wanted.bridge}"', f'oifname "{wanted.bridge}"'
    others = f'iifname != "{wanted.bridge}" oifname != "{wanted.bridge}" accept'
    rules = [others, f"{inside} {outside} accept"]
    if wanted.mode != "none":
        for subnet in wanted.subnets:
            family = _family(subnet)
            answers = " ct state established,related" if _translated(wanted, subnet) else ""
            rules.append(
                f"{_device('iifname', wanted)}{outside} {family} daddr {subnet.network}{answers} accept"
            )
            rules.append(f"{_device('oifname', wanted)}{inside} {family} saddr {subnet.network} accept")
    return [*rules, f"{outside} {_REJECT}", f"{inside} {_REJECT}"]


def _device(side: str, wanted: WantedNetwork) -> str:
    if not wanted.devices:
        return ""
    names = ", ".join(f'"{device}"' for device in wanted.devices)
    return f"{side} {{ {names} }} "


def _translated(wanted: WantedNetwork, subnet: WantedSubnet) -> bool:
    return wanted.mode == "nat" and (subnet.version == 4 or wanted.nat.ipv6)


def _masquerade(wanted: WantedNetwork, subnet: WantedSubnet) -> list[str]:
    if not _translated(wanted, subnet):
        return []
    family = _family(subnet)
    ours = f"{family} saddr {subnet.network}"
    local = ("ff00::/8",) if subnet.version == 6 else _MULTICAST
    rules = [f"{ours} {family} daddr {address} return" for address in local]
    nat = wanted.nat
    target = f"masquerade to :{nat.port_start}-{nat.port_end}"
    plain = "masquerade"
    if nat.start and ip_address(nat.start).version == subnet.version:
        end = f"-{nat.end}" if nat.end and nat.end != nat.start else ""
        first, last = (
            (f"[{nat.start}]", f"-[{nat.end}]" if end else "") if family == "ip6" else (nat.start, end)
        )
        target = f"snat {family} to {first}{last}:{nat.port_start}-{nat.port_end}"
        plain = f"snat {family} to {nat.start}{end}"
    away = f"{_device('oifname', wanted)}{ours} {family} daddr != {subnet.network}"
    return [*rules, f"{away} meta l4proto {{ tcp, udp }} {target}", f"{away} {plain}"]


def _family(subnet: WantedSubnet) -> str:
    return "ip6" if subnet.version == 6 else "ip"


# ---- across the overlay -----------------------------------------------------------------------------------


def _overlay(wanted: WantedNetwork, apart: isolation.Rules) -> list[str]:
    """The gateway is each node's own: nothing of it but routed packets crosses, nor does DHCP where we serve it.

    Laid out so that a guest's frame meets few rules, and one that stays on the node a single one."""
    lines, rules = [*apart.sets], [f"ether saddr {wanted.mac} goto gateway", *apart.overlay]
    chains = {"gateway": _gateway(), "arp": _arp(wanted), "ip": _ip(wanted), "ip6": _ip6(wanted)}
    kinds = [kind for kind in ("arp", "ip", "ip6") if chains[kind]]
    if kinds and rules[-1] != "drop":
        rules.append(f"ether type vmap {{ {', '.join(f'{kind} : goto kind-{kind}' for kind in kinds)} }}")
    for name, found in chains.items():
        if found:
            lines += _chain(name if name == "gateway" else f"kind-{name}", "", 0, found)
    lines += _chain("overlay", "", 0, rules)
    into = [f'iifname != "{wanted.overlay}" accept', f"ether daddr {wanted.mac} drop", "goto overlay"]
    out = [f'oifname != "{wanted.overlay}" accept', "goto overlay"]
    lines += _chain("into", "prerouting", -300, into) + _chain("out", "postrouting", 300, out)
    if apart.forward:
        lines += _chain("between", "forward", 0, [*apart.forward])
    return lines


def _gateway() -> list[str]:
    """What a node sends in the gateway's name: routed packets have one receiver, and are no neighbour discovery."""
    return [
        "ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00 drop",
        "ether type != { ip, ip6 } drop",
        "icmpv6 type { 133, 134, 135, 136, 137 } drop",
    ]


def _arp(wanted: WantedNetwork) -> list[str]:
    found = [subnet.gateway for subnet in wanted.subnets if subnet.version == 4]
    addresses = f"{{ {', '.join(found)} }}"
    return [f"arp {side} ip {addresses} drop" for side in ("saddr", "daddr")] if found else []


def _ip(wanted: WantedNetwork) -> list[str]:
    """A network where we serve no DHCP belongs to its guests, one of which may."""
    serves = any(subnet.dhcp and subnet.version == 4 for subnet in wanted.subnets)
    return ["udp dport { 67, 68 } drop"] if serves else []


def _ip6(wanted: WantedNetwork) -> list[str]:
    found = [subnet.gateway for subnet in wanted.subnets if subnet.version == 6]
    if not found:
        return []
    # The target stands 64 bits into a solicitation or an advertisement.
    targets = ", ".join(f"0x{int(IPv6Address(address)):032x}" for address in [*found, link_local(wanted.mac)])
    return [
        "udp dport { 546, 547 } drop",
        "icmpv6 type { 133, 134 } drop",
        f"icmpv6 type {{ 135, 136 }} @th,64,128 {{ {targets} }} drop",
    ]


def link_local(mac: str) -> str:
    """The link-local address that the kernel gives to a link of this MAC (RFC 4291, appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes([octets[0] ^ 2, *octets[1:3], 0xFF, 0xFE, *octets[3:]])
    return str(IPv6Address(b"\xfe\x80" + bytes(6) + identifier))


def _chain(name: str, hook: str, priority: int, rules: list[str], *, kind: str = "filter") -> list[str]:
    """A chain; without a hook one that others go to."""
    head = [f"\ttype {kind} hook {hook} priority {priority}; policy accept;"] if hook else []
    return [f"chain {name} {{", *head, *(f"\t{rule}" for rule in rules), "}"]
