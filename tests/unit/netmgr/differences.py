"""Where we say otherwise than libvirt 9.0 of a network's document, and why.  Knows nothing of netmgr's insides."""

from __future__ import annotations

OURS: dict[str, tuple[int, int]] = {
    "doctype": (27, 27),
    "entity": (27, 27),
    "mtu -1": (27, 92),
    "ip netmask bad": (27, 27),
    "netmask with range": (27, 27),
    "ip6 scope": (27, 92),
    "ip short address": (27, 92),
    "ip octal address": (27, 92),
    "ip hex address": (27, 92),
    "dns host scope": (35, 92),
    "dns srv empty target": (35, 35),
    "host id empty": (27, 92),
    "root ns": (27, 27),
    "title": (0, 0),
    "domain register": (0, 0),
}
"""What it is -> our code, and with validation.

Document types and entities are refused in any document.  A number that wraps around, a mask with holes, addresses with
a zone or in forms that only resolvers know (octal!), and records that say nothing would be taken by libvirt and then
do nothing, or something else than was meant.  <title>, <description> and register are newer than libvirt 9.0."""

SHOWN = frozenset(
    {
        "title",
        "domain register",
        "unknown element",  # kept, as it may be newer than we are
        "bw zero",  # an empty <bandwidth> says nothing
        "srv target empty only",  # as good as none
        "attr escapes",  # libvirt writes it as no XML
    }
)
"""Documents that libvirt takes too, but writes otherwise."""
