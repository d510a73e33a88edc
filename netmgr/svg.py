"""A picture of networks, nodes and guests as SVG 1.1: networks are bars across the columns of the nodes.  Pure.

Lines from guests to networks would cross by the hundred: a guest's interface names its network and has its colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lxml import etree

from netmgr.picture import Guest, Net, Node, Part, Picture

Element = etree._Element

NAMESPACE = "http://www.w3.org/2000/svg"
COLOURS = ("#1b6ca8", "#a8480f", "#2e7d32", "#7b3fa0", "#a01f4f", "#00707a", "#6b6b00", "#4a4a4a")
"""Dark enough for white text on them: 4.5 to 1 at least (WCAG 2.1, 1.4.3)."""
OFF = "#767676"
ROWS = 20
"""Guests in a column before another one is begun beside it."""

_MARGIN, _GAP = 16, 8
_BAR, _HEAD = 30, 26
_BOX, _LINE = 230, 15
_CHAR = 6.3
"""Width of a sign of 11 px, roughly."""


@dataclass(frozen=True, slots=True)
class _Column:
    """A node's place.  boxes: its guests with where each one's box is, and how high."""

    node: Node
    x: int
    width: int
    height: int
    boxes: tuple[tuple[Guest, int, int, int], ...]


def draw(picture: Picture) -> str:
    """The document."""
    colours = {net.name: COLOURS[at % len(COLOURS)] for at, net in enumerate(picture.networks)}
    columns = _columns(picture)
    width = max(columns[-1].x + columns[-1].width if columns else 0, 640) + _MARGIN
    top = 48 + len(picture.networks) * (_BAR + _GAP)
    height = top + max((column.height for column in columns), default=0) + _MARGIN
    root = _root(picture, width, height)
    for at, net in enumerate(picture.networks):
        _net(root, net, columns, 48 + at * (_BAR + _GAP), width, colours[net.name])
    for column in columns:
        _node(root, column, top, colours)
    etree.indent(root)
    text: str = etree.tostring(root, encoding="unicode")
    return text + "\n"


# ---- where things are -------------------------------------------------------------------------------------


def _columns(picture: Picture) -> list[_Column]:
    columns: list[_Column] = []
    x = _MARGIN
    for node in picture.nodes:
        guests = [guest for guest in picture.guests if guest.node == node.name]
        stacks = [guests[at : at + ROWS] for at in range(0, len(guests), ROWS)] or [[]]
        boxes, height = [], 0
        for at, stack in enumerate(stacks):
            y = _HEAD + _GAP
            for guest in stack:
                high = _LINE * (1 + len(guest.interfaces)) + 8
                boxes.append((guest, _GAP + at * (_BOX + _GAP), y, high))
                y += high + _GAP
            height = max(height, y)
        width = len(stacks) * (_BOX + _GAP) + _GAP
        columns.append(_Column(node, x, width, max(height, _HEAD + 40), tuple(boxes)))
        x += width + _MARGIN
    return columns


# ---- drawing ----------------------------------------------------------------------------------------------


def _root(picture: Picture, width: int, height: int) -> Element:
    root = etree.Element(f"{{{NAMESPACE}}}svg", nsmap={None: NAMESPACE})
    values = {
        "width": width,
        "height": height,
        "viewBox": f"0 0 {width} {height}",
        "role": "img",
        "aria-labelledby": "title desc",
        "font-family": "sans-serif",
        "font-size": 11,
    }
    for name, value in values.items():
        root.set(name, str(value))
    running = sum(guest.running for guest in picture.guests)
    heading = f"Networks of {picture.cluster}"
    _add(root, "title", id="title").text = heading
    _add(root, "desc", id="desc").text = (
        f"Networks: {len(picture.networks)}. Nodes: {len(picture.nodes)}. Guests: {len(picture.guests)}, "
        f"running: {running}."
    )
    _add(root, "rect", width=width, height=height, fill="#ffffff")
    _text(root, heading, _MARGIN, 30, width, size=18, weight="bold")
    return root


def _net(root: Element, net: Net, columns: Sequence[_Column], y: int, width: int, colour: str) -> None:
    group = _group(root, "network", net.name, _about(net))
    _add(
        group,
        "rect",
        x=_MARGIN,
        y=y,
        width=width - 2 * _MARGIN,
        height=_BAR,
        rx=4,
        fill=colour if net.active else OFF,
    )
    _text(group, _about(net), _MARGIN + 8, y + 13, width - 2 * _MARGIN, fill="#ffffff", weight="bold")
    parts = {part.node: part for part in net.nodes}
    for column in columns:
        if part := parts.get(column.node.name):
            _part(group, net, part, column, y)


def _part(group: Element, net: Net, part: Part, column: _Column, y: int) -> None:
    said = f"{part.node} has it" if part.ok else f"{part.node}: {part.reason or 'not ready'}"
    one = _group(group, "part", f"{net.name} {part.node}", said)
    sign = "✓" if part.ok else "✕"
    _text(one, f"{sign} {said}", column.x + 8, y + 25, column.width, fill="#ffffff")


def _node(root: Element, column: _Column, top: int, colours: dict[str, str]) -> None:
    node = column.node
    group = _group(root, "node", node.name, f"node {node.name}: {node.state}")
    group.set("transform", f"translate({column.x} {top})")
    edge = "#333333" if node.up else "#b00020"
    _add(
        group,
        "rect",
        width=column.width,
        height=column.height,
        rx=6,
        fill="#f4f4f4",
        stroke=edge,
        **{"stroke-dasharray": "none" if node.up else "6 4"},
    )
    _text(group, f"{node.name}: {node.state}", 10, 18, column.width - 20, size=13, weight="bold", fill=edge)
    for guest, x, y, height in column.boxes:
        _guest(group, guest, x, y, height, colours)


def _guest(parent: Element, guest: Guest, x: int, y: int, height: int, colours: dict[str, str]) -> None:
    lines = [
        f"{one.network}: {', '.join(one.addresses) or 'no address'} ({one.mac})" for one in guest.interfaces
    ]
    group = _group(parent, "guest", guest.name, "; ".join((f"{guest.name}, {guest.state}", *lines)))
    edge, ink = ("#333333", "#111111") if guest.running else ("#999999", "#595959")
    _add(group, "rect", x=x, y=y, width=_BOX, height=height, rx=4, fill="#ffffff", stroke=edge)
    _text(group, guest.name, x + 8, y + 15, _BOX - 90, size=12, weight="bold", fill=ink)
    _text(group, guest.state, x + _BOX - 8, y + 15, 80, fill=ink, anchor="end")
    for at, one in enumerate(guest.interfaces):
        base = y + 15 + (at + 1) * _LINE
        _add(group, "rect", x=x + 8, y=base - 9, width=9, height=9, fill=colours.get(one.network, OFF))
        address = one.addresses[0] if one.addresses else one.mac
        _text(group, f"{one.network}  {address}", x + 22, base, _BOX - 30, fill=ink)


def _about(net: Net) -> str:
    parts = [net.name, net.mode, ", ".join(net.subnets), net.bridge]
    parts += [f"VNI {net.vni}" if net.vni else "", "" if net.active else "not active"]
    return "  ·  ".join(filter(None, parts))


# ---- elements ---------------------------------------------------------------------------------------------


def _group(parent: Element, kind: str, name: str, title: str) -> Element:
    """A part with a name for programs, and a title that is read out and shown by the pointer."""
    group = _add(parent, "g", **{"class": kind, "data-name": name})
    _add(group, "title").text = title
    return group


def _text(
    parent: Element,
    text: str,
    x: int,
    y: int,
    room: int,
    *,
    size: int = 11,
    weight: str = "normal",
    fill: str = "#111111",
    anchor: str = "start",
) -> None:
    """One line, cut to the room (px) that it has."""
    most = max(int(room / _CHAR * 11 / size), 4)
    values = {"x": x, "y": y, "font-size": size, "font-weight": weight, "fill": fill, "text-anchor": anchor}
    _add(parent, "text", **values).text = text if len(text) <= most else text[: most - 1] + "…"


def _add(parent: Element, tag: str, **values: object) -> Element:
    child = etree.SubElement(parent, f"{{{NAMESPACE}}}{tag}")
    for name, value in values.items():
        child.set(name, str(value))
    return child
