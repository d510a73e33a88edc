"""Title, description and elements of a network, one at a time."""

from __future__ import annotations

import pytest

from netmgr import metadata, xml
from netmgr.errors import BadArgument, BadValue, MetadataNotFound, NetworkError, XmlMalformed, XmlRefused
from netmgr.metadata import Kind

BARE = xml.read("<network><name>x</name></network>")


@pytest.mark.parametrize("kind", [Kind.TITLE, Kind.DESCRIPTION])
def test_title_and_description_come_and_go(kind: Kind):
    with pytest.raises(MetadataNotFound):
        metadata.get(BARE, kind, None)
    titled = metadata.put(BARE, kind, "a & b", None, None)
    assert metadata.get(xml.read(xml.write(titled)), kind, None) == "a & b"
    for nothing in ("", None):
        assert metadata.put(titled, kind, nothing, None, None) == BARE


def test_a_title_has_one_line_a_description_may_have_more():
    with pytest.raises(BadArgument, match="line break"):
        metadata.put(BARE, Kind.TITLE, "a\nb", None, None)
    assert metadata.put(BARE, Kind.DESCRIPTION, "a\nb", None, None).description == "a\nb"


def test_an_element_is_kept_in_a_namespace_and_given_back_without():
    made = metadata.put(BARE, Kind.ELEMENT, "<x a='1'><y/>t</x>", "k", "urn:k")
    assert made.metadata == ('<k:x xmlns:k="urn:k" a="1"><k:y/>t</k:x>',)
    assert metadata.get(xml.read(xml.write(made)), Kind.ELEMENT, "urn:k") == '<x a="1"><y/>t</x>'
    with pytest.raises(MetadataNotFound):
        metadata.get(made, Kind.ELEMENT, "urn:other")


def test_an_element_takes_the_place_of_that_of_its_namespace():
    two = metadata.put(
        metadata.put(BARE, Kind.ELEMENT, "<x/>", "k", "urn:k"), Kind.ELEMENT, "<x/>", "j", "urn:j"
    )
    new = metadata.put(two, Kind.ELEMENT, "<new/>", "q", "urn:k")
    assert new.metadata == ('<j:x xmlns:j="urn:j"/>', '<q:new xmlns:q="urn:k"/>')
    gone = metadata.put(new, Kind.ELEMENT, None, None, "urn:j")
    assert gone.metadata == ('<q:new xmlns:q="urn:k"/>',)
    assert metadata.put(gone, Kind.ELEMENT, None, None, "urn:k") == BARE
    assert metadata.put(BARE, Kind.ELEMENT, None, None, "urn:nobody") == BARE


def test_an_element_may_bring_its_namespace_along_and_others_inside():
    text = "<w:x xmlns:w='urn:w'><w:k/><o:z xmlns:o='urn:o'/></w:x>"
    made = metadata.put(BARE, Kind.ELEMENT, text, "w", "urn:w")
    assert metadata.get(made, Kind.ELEMENT, "urn:w") == '<x>\n  <k/>\n  <o:z xmlns:o="urn:o"/>\n</x>'
    plain = metadata.put(BARE, Kind.ELEMENT, "<x xmlns='urn:d'><k/></x>", "q", "urn:d")
    assert metadata.get(plain, Kind.ELEMENT, "urn:d") == "<x>\n  <k/>\n</x>"


@pytest.mark.parametrize(
    ("error", "kind", "text", "key", "uri"),
    [
        (XmlMalformed, 2, "<x", "k", "urn:k"),
        (XmlMalformed, 2, "", "k", "urn:k"),
        (XmlRefused, 2, "<!DOCTYPE x><x/>", "k", "urn:k"),
        (BadValue, 2, "<x/>", "1 k", "urn:k"),
        (BadValue, 2, "<w:x xmlns:w='urn:w'/>", "k", "urn:k"),
        (BadArgument, 2, "<x/>", None, "urn:k"),
        (BadArgument, 2, "<x/>", "k", None),
        (BadArgument, 3, "<x/>", "k", "urn:k"),
    ],
)
def test_what_is_no_metadata_is_refused(error: type[NetworkError], kind: int, text: str, key: str, uri: str):
    with pytest.raises(error):
        metadata.put(BARE, kind, text, key, uri)


def test_asking_needs_a_kind_and_a_namespace():
    for kind, uri in ((3, "urn:k"), (2, None)):
        with pytest.raises(BadArgument):
            metadata.get(BARE, kind, uri)


@pytest.mark.parametrize(
    ("inside", "kept"),
    [
        ("one\n two", "one\n two"),
        ("one <b/>\n two\n", "one <b/>\n two\n"),
        (" <b><c/> t\n</b> ", "\n  <b><c/> t\n</b>\n"),
        ("<b>\n<c/></b>", "\n  <b>\n    <c/>\n  </b>\n"),
    ],
)
def test_text_in_foreign_elements_is_left_as_it_is_and_layout_made_anew(inside: str, kept: str):
    network = xml.read(f"<network><name>x</name><metadata><a xmlns='urn:a'>{inside}</a></metadata></network>")
    assert network.metadata == (f'<a xmlns="urn:a">{kept}</a>',)
    assert xml.read(xml.write(network)) == network
