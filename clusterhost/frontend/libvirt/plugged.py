"""Interfaces in the XML of what runs: a node says bridge where its network stands for one of the cluster's.  Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape

BRIDGE = b"<interface type='bridge'>"
INTERFACE = re.compile(rb"<interface type='bridge'>(.*?</interface>)", re.DOTALL)
SOURCE = re.compile(rb"<source network='([^']*)' ")


def on_networks(xml: bytes, ours: Callable[[str], bool]) -> bytes:
    """As on a host that has the network itself.  ours: a network of that name has bridges of ours."""
    if BRIDGE not in xml:
        return xml

    def element(found: re.Match[bytes]) -> bytes:
        source = SOURCE.search(found[1])
        if source is None or not ours(unescape(source[1].decode("utf-8", "surrogateescape"))):
            return found[0]
        return b"<interface type='network'>" + found[1]

    return INTERFACE.sub(element, xml)
