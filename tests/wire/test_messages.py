"""Every generated message against the facts: bytes, round trips, limits, ranges, cut messages."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compat.libvirt import messages
from compat.libvirt.errors import XdrError
from compat.libvirt.xdr import Message
from tests.wire import facts

ROOT = Path(__file__).parents[2]
quick = settings(max_examples=6, deadline=None, database=None, suppress_health_check=list(HealthCheck))
SIZED = [
    (name, label, fact["max"])
    for name in facts.structs()
    if isinstance(facts.TYPES[name], list)
    for label, given_fact in facts.TYPES[name]
    if (fact := facts.followed(given_fact))["t"] in ("string", "opaque", "array") and "max" in fact
]
INTEGERS = [
    (name, label, facts.RANGES[fact["t"]])
    for name in facts.structs()
    if isinstance(facts.TYPES[name], list)
    for label, given_fact in facts.TYPES[name]
    if (fact := facts.followed(given_fact))["t"] in facts.RANGES
]


def simplest(name: str) -> Any:
    """Return an object of a struct with the least that its members may be."""
    body = facts.TYPES[name]
    if not isinstance(body, list):
        return facts.class_of(name)(1, 0)
    return facts.class_of(name)(*(least(facts.followed(fact)) for _, fact in body))


def least(fact: dict[str, Any]) -> Any:
    kind = fact["t"]
    if kind in facts.RANGES:
        return 0
    if kind == "ref":
        return simplest(fact["name"])
    if kind == "array" and not facts.is_chars(fact):
        return []
    return {"double": 0.0, "string": "", "optional": None}.get(kind, bytes(fact.get("len", 0)))


def field(label: str) -> str:
    """Return the Python name of a member."""
    return "from_" if label == "from" else label


def changed(message: Any, label: str, value: Any) -> Any:
    return msgspec.structs.replace(message, **{field(label): value})


def test_every_type_of_the_facts_has_a_name_in_messages() -> None:
    assert len(facts.TYPES) == len(messages.__all__) == 771
    assert all(issubclass(facts.class_of(name), Message) for name in facts.structs())


@pytest.mark.parametrize("name", facts.structs())
def test_a_message_encodes_as_the_facts_say_and_comes_back_equal(name: str) -> None:
    cls = facts.class_of(name)

    @quick
    @given(facts.struct_values(name), st.binary(max_size=5), st.integers(0, 3))
    def check(message: Any, tail: bytes, before: int) -> None:
        data = message.to_bytes()
        assert data == facts.encode_struct(name, message)
        assert cls.from_bytes(data) == message
        assert cls.from_bytes(bytes(before) + data + tail, before) == message

    check()


@pytest.mark.parametrize("name", facts.structs())
def test_a_message_that_is_cut_is_an_xdr_error(name: str) -> None:
    cls = facts.class_of(name)

    @settings(quick, max_examples=2)
    @given(facts.struct_values(name), st.randoms(use_true_random=False))
    def check(message: Any, rng: random.Random) -> None:
        data = message.to_bytes()
        for size in {0, len(data) - 1, len(data) - 4, rng.randrange(len(data))}:
            with pytest.raises(XdrError):
                cls.from_bytes(data[: max(size, 0)])

    check()


@pytest.mark.parametrize("name", facts.structs())
def test_any_bytes_give_a_message_or_an_xdr_error(name: str) -> None:
    cls = facts.class_of(name)
    rng = random.Random(name)
    for _ in range(30):
        words = (rng.choice((0, 1, 2, 7, 255, 2**31, 2**32 - 1)) for _ in range(rng.randrange(12)))
        data = b"".join(struct.pack(">I", word) for word in words) + rng.randbytes(rng.randrange(4))
        try:
            message = cls.from_bytes(data)
        except XdrError:
            continue
        assert cls.from_bytes(message.to_bytes()) == message or "nan" in repr(message)


@pytest.mark.parametrize(("name", "label", "limits"), INTEGERS)
def test_an_integer_takes_its_bounds_and_nothing_beyond(
    name: str, label: str, limits: tuple[int, int]
) -> None:
    message = simplest(name)
    for value in limits:
        kept = changed(message, label, value)
        assert type(kept).from_bytes(kept.to_bytes()) == kept
    for value in (limits[0] - 1, limits[1] + 1, 2**70):
        with pytest.raises(XdrError) as caught:
            changed(message, label, value).to_bytes()
        assert caught.value.field.endswith("." + field(label))
        assert str(value) in str(caught.value)


@pytest.mark.parametrize(("name", "label", "limit"), SIZED)
def test_a_size_over_its_limit_is_refused_both_ways(name: str, label: str, limit: int) -> None:
    """Encoding sees a value that is too long; decoding a count alone, which needs no bytes behind it."""
    message = simplest(name)
    value = getattr(message, field(label))
    if limit < 100_000:
        long = (
            [None] * (limit + 1) if isinstance(value, list) else type(value)().ljust(limit + 1, _pad(value))
        )
        with pytest.raises(XdrError) as caught:
            changed(message, label, long).to_bytes()
        assert caught.value.field.endswith("." + field(label))
        assert str(limit) in str(caught.value.allowed)
    before = b""
    for other, fact in facts.TYPES[name]:
        if other == label:
            break
        before += facts.encode(fact, getattr(message, field(other)))
    for count in (limit + 1, 2**32 - 1):
        with pytest.raises(XdrError) as caught:
            type(message).from_bytes(before + struct.pack(">I", count) + bytes(64))
        assert caught.value.found == f"a length of {count}"


def _pad(value: str | bytes) -> Any:
    return "x" if isinstance(value, str) else b"x"


def test_a_string_of_exactly_its_limit_passes_and_one_byte_more_does_not() -> None:
    limit = facts.FACTS["consts"]["REMOTE_STRING_MAX"]
    name = messages.RemoteDomainLookupByNameArgs("x" * limit)
    assert messages.RemoteDomainLookupByNameArgs.from_bytes(name.to_bytes()) == name
    with pytest.raises(XdrError):
        messages.RemoteDomainLookupByNameArgs("x" * (limit - 1) + "é").to_bytes()


def test_strings_carry_any_bytes() -> None:
    data = struct.pack(">I", 5) + b"\xff\xfe\x80a\0" + bytes(3)
    assert messages.RemoteDomainLookupByNameArgs.from_bytes(data).to_bytes() == data


def test_a_string_that_no_bytes_can_stand_for_is_an_xdr_error() -> None:
    with pytest.raises(XdrError):
        messages.RemoteDomainLookupByNameArgs("\ud800").to_bytes()


@pytest.mark.parametrize("uuid", [b"", b"x" * 15, b"x" * 17])
def test_a_uuid_has_sixteen_bytes(uuid: bytes) -> None:
    with pytest.raises(
        XdrError, match=r"RemoteNonnullDomain.uuid: found a length of \d+, allowed exactly 16"
    ):
        messages.RemoteNonnullDomain("web", uuid, 1).to_bytes()


def test_char_arrays_drop_the_sign_extension_of_their_peers() -> None:
    words = [b"\xff\xff\xff\xe9", b"\0\0\0\xe9", b"\0\0\0a", bytes(4)]
    data = struct.pack(">I", 4) + b"".join(words) + struct.pack(">i", 1)
    label = messages.RemoteDomainGetSecurityLabelRet.from_bytes(data)
    assert label.label == b"\xe9\xe9a\0"
    assert label.to_bytes() == data[:8] + words[0] + data[12:]


def test_a_typed_value_of_an_unknown_type_is_refused() -> None:
    with pytest.raises(XdrError):
        messages.RemoteTypedParamValue.from_bytes(struct.pack(">iQ", 8, 0))
    with pytest.raises(XdrError):
        messages.RemoteTypedParamValue(0, 1).to_bytes()
    with pytest.raises(XdrError):
        messages.RemoteTypedParamValue(7, 1).to_bytes()
    with pytest.raises(XdrError):
        messages.RemoteTypedParamValue(1, "one").to_bytes()


def test_the_generated_files_are_fresh() -> None:
    tool = ROOT / "tools" / "generate_messages.py"
    done = subprocess.run([sys.executable, tool, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_the_schema_loads_no_more_than_a_few_messages() -> None:
    code = (
        "import sys, compat.libvirt.connection\n"
        "print(len([name for name in sys.modules if 'libvirt.messages.' in name]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert int(done.stdout) <= 2
