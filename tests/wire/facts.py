"""The facts read a second time, plainly: strategies for every type and a slow reference encoder.

Nothing of the generator is used, so that a fault of its cannot hide here.
"""

from __future__ import annotations

import json
import struct
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from compat.libvirt import messages

FACTS = json.loads((Path(__file__).parents[2] / "tools" / "facts" / "protocol.json").read_text())
TYPES: dict[str, Any] = FACTS["types"]
RANGES = {
    "int": (-(2**31), 2**31 - 1),
    "uint": (0, 2**32 - 1),
    "hyper": (-(2**63), 2**63 - 1),
    "uhyper": (0, 2**64 - 1),
    "uchar": (0, 255),
    "ushort": (0, 65535),
    "char": (-128, 127),
}
CODES = {
    "int": ">i",
    "uint": ">I",
    "hyper": ">q",
    "uhyper": ">Q",
    "double": ">d",
    "uchar": ">I",
    "ushort": ">I",
}
any_bytes = st.binary(max_size=9)
any_text = any_bytes.map(lambda data: data.decode("utf-8", "surrogateescape"))


def class_of(name: str) -> type[Any]:
    """Return the generated class of a wire type."""
    found: type[Any] = getattr(messages, "".join(word[:1].upper() + word[1:] for word in name.split("_")))
    return found


def followed(fact: dict[str, Any]) -> dict[str, Any]:
    """Follow references to typedefs and enumerations."""
    while fact["t"] == "ref":
        if fact["name"] in FACTS["enums"]:
            return {"t": "int"}
        body = TYPES[fact["name"]]
        if "typedef" not in body:
            return fact
        fact = body["typedef"]
    return fact


def structs() -> list[str]:
    """Return the names of all types that have a class: structs and unions."""
    return [name for name, body in TYPES.items() if "typedef" not in body]


def is_chars(fact: dict[str, Any]) -> bool:
    return fact["t"] == "array" and fact["of"]["t"] == "char"


@cache
def struct_values(name: str) -> st.SearchStrategy[Any]:
    """Return a strategy for objects of a struct or union."""
    body = TYPES[name]
    if isinstance(body, list):
        return st.builds(class_of(name), *(values(fact) for _, fact in body))
    arms = [
        st.builds(class_of(name), st.just(case["value"]), values(case["type"]))
        for case in body["union"]["cases"]
    ]
    return st.one_of(arms)


def values(fact: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return a strategy for values of a type; sizes stay small, limits are tested on their own."""
    fact = followed(fact)
    kind = fact["t"]
    if kind in RANGES:
        low, high = RANGES[kind]
        return st.integers(low, high) | st.sampled_from((low, high))
    if kind == "double":
        return st.floats(allow_nan=False)
    if kind == "string":
        return any_text
    if kind == "opaque" and "len" in fact:
        return st.binary(min_size=fact["len"], max_size=fact["len"])
    if kind == "opaque":
        return any_bytes
    if is_chars(fact):
        return st.binary(min_size=fact.get("len", 0), max_size=fact.get("len", 9))
    if kind == "optional":
        return st.none() | values(fact["of"])
    if kind == "array":
        return st.lists(values(fact["of"]), max_size=2)
    return struct_values(fact["name"])


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def text_bytes(value: str) -> bytes:
    return value.encode("utf-8", "surrogateescape")


def encode(fact: dict[str, Any], value: Any) -> bytes:
    """Encode a value as RFC 4506 says, one member after the other."""
    fact = followed(fact)
    kind = fact["t"]
    if kind in CODES:
        return struct.pack(CODES[kind], value)
    if kind == "char":
        return struct.pack(">I", value & 0xFF)
    if kind == "string":
        return struct.pack(">I", len(text_bytes(value))) + padded(text_bytes(value))
    if kind == "opaque":
        count = b"" if "len" in fact else struct.pack(">I", len(value))
        return count + padded(value)
    if kind == "optional":
        return bytes(4) if value is None else b"\0\0\0\1" + encode(fact["of"], value)
    if kind == "array":
        count = b"" if "len" in fact else struct.pack(">I", len(value))
        if is_chars(fact):
            return count + b"".join(struct.pack(">i", byte - 256 if byte > 127 else byte) for byte in value)
        return count + b"".join(encode(fact["of"], item) for item in value)
    return encode_struct(fact["name"], value)


def encode_struct(name: str, value: Any) -> bytes:
    """Encode an object of a struct or union."""
    body = TYPES[name]
    if isinstance(body, list):
        members = [getattr(value, "from_" if label == "from" else label) for label, _ in body]
        return b"".join(encode(fact, part) for (_, fact), part in zip(body, members, strict=True))
    arm = next(case for case in body["union"]["cases"] if case["value"] == value.type)
    return struct.pack(">i", value.type) + encode(arm["type"], value.value)
