"""Typed parameters and URIs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compat.libvirt import typedparams as tp
from compat.libvirt.errors import XdrError
from compat.libvirt.messages import RemoteDomainGetBlkioParametersRet
from compat.libvirt.uri import Uri, UriError, format_uri, parse_uri, remote_name

names = st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1, max_size=30)
plain = st.one_of(
    st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False), st.text(max_size=9)
)


@given(st.dictionaries(names, plain, max_size=9))
def test_plain_values_become_parameters_and_come_back(values: dict[str, Any]) -> None:
    message = RemoteDomainGetBlkioParametersRet(tp.to_params(values), len(values))
    back = tp.from_params(RemoteDomainGetBlkioParametersRet.from_bytes(message.to_bytes()).params)
    assert back == values
    assert list(back) == list(values)
    assert [type(value) for value in back.values()] == [type(value) for value in values.values()]


@pytest.mark.parametrize(
    ("value", "type"),
    [
        (True, tp.BOOLEAN),
        (-(2**31), tp.INT),
        (2**31 - 1, tp.INT),
        (2**31, tp.LLONG),
        (-(2**63), tp.LLONG),
        (2**63, tp.ULLONG),
        (0.5, tp.DOUBLE),
        ("x", tp.STRING),
    ],
)
def test_a_plain_value_takes_the_smallest_type_that_holds_it(value: Any, type: int) -> None:
    assert tp.type_of(value) == type


def test_a_named_type_is_kept_and_a_replaced_value_keeps_it() -> None:
    params = tp.to_params([("cpu", tp.ULLONG, 5), ("disk", tp.STRING, "a"), ("disk", tp.STRING, "b")])
    assert tp.values(params, "disk") == ["a", "b"]
    assert tp.get(params, "cpu") == 5
    assert tp.get(params, "none", "other") == "other"
    params = tp.replace(params, "cpu", 6)
    assert (params[0].value.type, params[0].value.value) == (tp.ULLONG, 6)
    assert tp.replace(params, "none", 6) == params
    params = tp.add(tp.remove(params, "disk"), "uri", tp.STRING, "tcp://h")
    assert tp.from_params(params) == {"cpu": 6, "uri": "tcp://h"}


@pytest.mark.parametrize("name", ["", "x" * 80, "é" * 40])
def test_a_name_that_libvirt_cannot_hold_is_refused(name: str) -> None:
    with pytest.raises(XdrError):
        tp.param(name, tp.INT, 1)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("qemu:///system", "qemu:///system"),
        ("qemu+tls://u@h:123/system?node=n2&no_verify=1", "qemu:///system?node=n2"),
        ("qemu+unix:///system?socket=/run/x%20y&node=n+2", "qemu:///system?node=n%2B2"),
        ("qemu+ssh://[::1]:22/session?keyfile=/k&a=1&netcat=nc&a=2", "qemu:///session?a=1&a=2"),
        ("test+unix:///default?socket=/s", "test:///default"),
        ("remote+unix:///system?socket=/s", ""),
        ("qemu+tcp://h/system?NAME=qemu:///session", "qemu:///session"),
        ("clusterqemu+tcp://h/?name=", ""),
    ],
)
def test_the_name_sent_to_the_server_lacks_what_the_client_uses_itself(text: str, name: str) -> None:
    assert remote_name(parse_uri(text)) == name


parts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@given(
    st.builds(
        Uri,
        driver=st.sampled_from(["qemu", "test"]),
        transport=st.sampled_from(["", "unix", "tls"]),
        user=parts,
        host=st.sampled_from(["", "h.example", "::1", "10.0.0.1"]),
        port=st.integers(0, 65535),
        path=parts.map(lambda text: "/" + text),
        query=st.lists(st.tuples(parts.filter(bool), parts), max_size=3).map(tuple),
        fragment=parts,
    )
)
def test_a_uri_that_was_written_reads_the_same(uri: Uri) -> None:
    assert parse_uri(format_uri(uri)) == uri
    assert str(uri) == format_uri(uri)


@given(st.text(max_size=40) | st.text("qemu+:/?&=%[]@#01.", max_size=40))
def test_any_text_is_a_uri_or_a_uri_error(text: str) -> None:
    try:
        uri = parse_uri(text)
    except UriError:
        return
    assert parse_uri(format_uri(uri)).driver == uri.driver


@pytest.mark.parametrize(
    "text", ["", "system", "://x", "qemu://h:99999/", "qemu://h:1x/", "1qemu:///", "qemu:///\0"]
)
def test_what_is_no_uri_is_refused(text: str) -> None:
    with pytest.raises(UriError):
        parse_uri(text)


def test_parameters_are_read_in_libvirts_way() -> None:
    uri = parse_uri("qemu:///system?a=1&b&=x;c=%41&a=2")
    assert uri.query == (("a", "1"), ("b", ""), ("c", "A"), ("a", "2"))
    assert uri.get("a") == "1"
    assert uri.get("d") is None
    assert str(uri.with_parameter("a", "9")) == "qemu:///system?b=&c=A&a=9"
    assert str(uri.with_parameter("a", None)) == "qemu:///system?b=&c=A"
