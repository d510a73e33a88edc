"""The picture of networks is well formed, whole, and stays inside its frame whatever it shows."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from netmgr.picture import Guest, Interface, Net, Node, Part, Picture, read
from netmgr.svg import COLOURS, NAMESPACE, draw

SVG = {"s": NAMESPACE}
NODES = ("n1", "n2", "n3")


def picture(guests: int, networks: int = 2) -> Picture:
    nets = tuple(
        Net(
            f"net{at}",
            True,
            "nat",
            f"br{at}",
            at + 1,
            (f"10.{at}.0.0/24",),
            tuple(Part(node, node != "n3", "" if node != "n3" else "no dnsmasq") for node in NODES),
        )
        for at in range(networks)
    )
    return Picture(
        "demo",
        nets,
        tuple(Node(name, name != "n3", "up" if name != "n3" else "is out of reach") for name in NODES),
        tuple(
            Guest(
                f"guest{at}",
                NODES[at % 3],
                at % 5 != 0,
                "running" if at % 5 else "shut off",
                tuple(
                    Interface(net.name, f"02:00:0a:00:00:{at % 256:02x}", (f"10.0.0.{at}",))
                    for net in nets[: 1 + at % 2]
                ),
            )
            for at in range(guests)
        ),
    )


def drawn(found: Picture) -> etree._Element:
    return etree.fromstring(draw(found).encode(), etree.XMLParser(resolve_entities=False))


def of_class(root: etree._Element, kind: str) -> list[str]:
    return [str(name) for name in root.xpath(f"//s:g[@class='{kind}']/@data-name", namespaces=SVG)]


@pytest.mark.parametrize("guests", [0, 3, 200])
def test_each_network_node_and_guest_stands_in_it_once(guests):
    found = picture(guests)
    root = drawn(found)
    assert of_class(root, "network") == ["net0", "net1"]
    assert of_class(root, "node") == list(NODES)
    assert sorted(of_class(root, "guest")) == sorted(guest.name for guest in found.guests)
    assert len(of_class(root, "part")) == 6


def test_it_tells_what_it_shows_to_those_who_do_not_see_it():
    root = drawn(picture(3))
    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == "title desc"
    said = root.xpath("string(s:desc[@id='desc'])", namespaces=SVG)
    assert said == "Networks: 2. Nodes: 3. Guests: 3, running: 2."
    assert root.xpath("count(//s:g[not(s:title)])", namespaces=SVG) == 0
    title = root.xpath("string(//s:g[@data-name='guest1']/s:title)", namespaces=SVG)
    assert title == (
        "guest1, running; net0: 10.0.0.1 (02:00:0a:00:00:01); net1: 10.0.0.1 (02:00:0a:00:00:01)"
    )


def test_a_node_that_lacks_a_network_says_why_in_words_not_by_colour_alone():
    text = draw(picture(3))
    assert "✕ n3: no dnsmasq" in text
    assert "✓ n1 has it" in text
    assert "n3: is out of reach" in text


def test_boxes_of_guests_neither_overlap_nor_leave_the_picture():
    root = drawn(picture(200))
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    for node in root.xpath("//s:g[@class='node']", namespaces=SVG):
        left, top = map(float, node.get("transform")[len("translate(") : -1].split())
        frame = node.find(f"{{{NAMESPACE}}}rect")
        boxes = [
            tuple(float(box.get(name)) for name in ("x", "y", "width", "height"))
            for box in node.xpath("s:g[@class='guest']/s:rect[@height != '9']", namespaces=SVG)
        ]
        assert left + float(frame.get("width")) <= width
        assert top + float(frame.get("height")) <= height
        for x, y, wide, high in boxes:
            assert x + wide <= float(frame.get("width"))
            assert y + high <= float(frame.get("height"))
        for at, (x, y, wide, high) in enumerate(boxes):
            for other_x, other_y, other_wide, other_high in boxes[at + 1 :]:
                apart = x + wide <= other_x or other_x + other_wide <= x
                assert apart or y + high <= other_y or other_y + other_high <= y


def test_two_hundred_guests_fit_a_page_that_can_be_read():
    root = drawn(picture(200))
    assert float(root.get("width", 0)) < 4000
    assert float(root.get("height", 0)) < 1500


@given(
    st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\ufffe\uffff"), min_size=1)
)
def test_any_name_leaves_it_well_formed_and_is_kept_whole_in_the_title(name):
    found = Picture(
        name, (Net(name, True, "nat"),), (Node("n1", True, "up"),), (Guest(name, "n1", True, "running"),)
    )
    root = drawn(found)
    assert of_class(root, "guest") == [name]
    assert root.xpath("string(//s:g[@class='guest']/s:title)", namespaces=SVG) == f"{name}, running"


def test_what_travelled_as_json_is_the_same_picture():
    found = picture(7)
    assert read(msgspec.json.decode(msgspec.json.encode(found))) == found


@pytest.mark.parametrize("colour", COLOURS)
def test_white_text_can_be_read_on_every_colour(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    luminance = sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    assert 1.05 / (luminance + 0.05) >= 4.5
