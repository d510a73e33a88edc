"""XML documents: what is refused, what is kept."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compat import xmldoc
from compat.xmldoc import Limits, XmlDocument, XmlError

DOMAIN = """<?xml version='1.0' encoding='UTF-8'?>
<!-- kept -->
<domain type='kvm' id="3">
  <name>web &amp; more</name>
  <metadata><x:place xmlns:x="urn:x" zone='a'>é</x:place></metadata>
  <unknown future='1'><![CDATA[ <raw> ]]></unknown>
  <devices>
    <disk device='cdrom'/>
    <disk device='disk'><target dev="vda"/></disk>
  </devices>
</domain>
<!-- after -->
"""
LAUGHS = """<!DOCTYPE lolz [<!ENTITY lol "lol"><!ENTITY lol2 "&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;">
<!ENTITY lol3 "&lol2;&lol2;&lol2;&lol2;&lol2;&lol2;&lol2;">]><lolz>&lol3;</lolz>"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LAUGHS, "document type"),
        ("<!DOCTYPE domain><domain/>", "document type"),
        ("<!-- <a> --><?pi x?>\n <!DOCTYPE a SYSTEM 'file:///etc/passwd'><a/>", "document type"),
        ("\ufeff<!DOCTYPE a><a/>", "document type"),
        ("<a>&b;</a>", "not well-formed"),
        ("<a b='&c;'/>", "not well-formed"),
        ("", "not well-formed"),
        ("<a><b></a>", "not well-formed"),
        ("<a/><b/>", "not well-formed"),
        ("<a>\0</a>", "not well-formed"),
        ("<a>\udcff</a>", "not well-formed"),
        ("<x:a/>", "not well-formed"),
        ("<a>" * 101 + "</a>" * 101, "nested 101 deep, 100 are allowed"),
        ("<a>" * 100_000, "not well-formed"),
        ("<a " + " ".join(f"a{n}='1'" for n in range(257)) + "/>", "257 attributes, 256 are allowed"),
        ("<a>" + "x" * 4 * 1024 * 1024 + "</a>", "bytes, 4194304 are allowed"),
        ("<a>" + "<b/>" * 200_000 + "</a>", "200001 elements"),
    ],
)
def test_what_is_dangerous_or_broken_is_refused_with_one_sentence(text: str, reason: str) -> None:
    started = time.monotonic()
    with pytest.raises(XmlError, match=reason) as caught:
        xmldoc.parse(text)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 5


@given(st.text("<>/ab='\"&;!-[]?DOCTYPE \n", max_size=60))
def test_any_text_is_a_document_or_an_xml_error(text: str) -> None:
    try:
        document = xmldoc.parse(text)
    except XmlError:
        return
    assert document.to_string() == text


def test_the_limits_are_the_callers() -> None:
    assert xmldoc.parse("<a><b/></a>", limits=Limits(depth=2)).tag == "a"
    for limits in (Limits(depth=1), Limits(size=10), Limits(elements=1)):
        with pytest.raises(XmlError):
            xmldoc.parse("<a><b/></a>", limits=limits)


def test_an_unchanged_document_is_the_very_same_text() -> None:
    document = xmldoc.parse(DOMAIN)
    assert document.text("name") == "web & more"
    assert document.to_string() is DOMAIN
    assert document.copy().to_string() == DOMAIN


def test_a_document_type_inside_a_comment_or_text_is_only_text() -> None:
    assert xmldoc.parse("<!-- <!DOCTYPE a> --><a><![CDATA[<!DOCTYPE b>]]></a>").text(".") == "<!DOCTYPE b>"


def test_a_declared_encoding_means_nothing_to_text() -> None:
    assert xmldoc.parse("<?xml version='1.0' encoding='iso-8859-1'?><a>é</a>").text(".") == "é"


def test_reading_by_path() -> None:
    document = xmldoc.parse(DOMAIN, namespaces={"p": "urn:x"})
    assert document.tag == "domain"
    assert document.attribute(".", "id") == document.text("@id") == "3"
    assert document.attribute("nothing", "id", "none") == document.text("nothing", "none") == "none"
    assert document.text("metadata/p:place") == "é"
    assert document.text("count(devices/disk)") == "2.0"
    assert [disk.get("device") for disk in document.all("devices/disk")] == ["cdrom", "disk"]
    quote = document.text("devices/disk[target/@dev=$dev]/@device", dev="vda")
    assert quote == "disk"
    assert document.find("devices/disk[target/@dev=$dev]", dev="' or '1'='1") is None


def test_changes_leave_all_else_in_place() -> None:
    document = xmldoc.parse(DOMAIN, namespaces={"p": "urn:x"})
    document.set_attribute(".", "id", None)
    document.set_text("name", "<db>")
    document.set_attribute("metadata/p:place", "zone", "b")
    document.insert("devices", "<disk device='lun'/>", 1)
    assert document.remove("devices/disk[@device='cdrom']") == 1
    assert document.remove("devices/disk[@device='cdrom']") == 0
    text = document.to_string()
    for kept in (
        "<!-- kept -->",
        "<!-- after -->",
        "future=",
        "<![CDATA[ <raw> ]]>",
        'xmlns:x="urn:x"',
        "&lt;db&gt;",
    ):
        assert kept in text
    again = xmldoc.parse(text, namespaces={"p": "urn:x"})
    assert again.text("@id") is None
    assert again.text("name") == "<db>"
    assert again.text("metadata/p:place/@zone") == "b"
    assert [disk.get("device") for disk in again.all("devices/disk")] == ["lun", "disk"]


def test_removing_an_element_keeps_the_text_around_it() -> None:
    document = xmldoc.parse("<a>one<b/>two<b/>three</a>")
    document.remove("b")
    assert document.to_string() == "<a>onetwothree</a>"


def test_changing_what_is_not_there_is_a_key_error_and_bad_insertions_are_refused() -> None:
    document = XmlDocument.parse("<a/>")
    for change in (lambda: document.set_text("b", "x"), lambda: document.set_attribute("b", "c", "d")):
        with pytest.raises(KeyError, match="<a> has no b"):
            change()
    with pytest.raises(XmlError):
        document.insert(".", LAUGHS)
    assert document.to_string() == "<a/>"


def test_elements_changed_by_hand_are_written_once_it_is_told() -> None:
    document = xmldoc.parse("<a/>")
    document.root.set("b", "1")
    document.touched()
    assert document.to_string() == '<a b="1"/>'
