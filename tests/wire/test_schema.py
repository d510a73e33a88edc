"""The schema against the facts, and finding and rewriting domain handles in payloads."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compat.libvirt import constants
from compat.libvirt.errors import XdrError
from compat.libvirt.messages import RemoteDomainGetStateArgs, RemoteNonnullDomain
from compat.libvirt.schema import (
    BY_NAME,
    EVENTS,
    PROCEDURES,
    Part,
    Procedure,
    domain_uuid,
    rename_domains,
    rewrite_domains,
)
from compat.libvirt.walkers import WALKERS
from compat.libvirt.xdr import Message
from tests.wire import facts

TOOLS = Path(__file__).parents[2] / "tools" / "facts"
CLASSES = json.loads((TOOLS / "classes.json").read_text())
PARTS: list[tuple[str, Part]] = [
    (found.full_name, part)
    for found in PROCEDURES.values()
    for part in ("args", "ret", "msg")
    if getattr(found, part + "_name") in WALKERS
]
WIRE_NAMES = {facts.class_of(name).__name__: name for name in facts.structs()}
few = settings(max_examples=8, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def domains(value: Any) -> list[RemoteNonnullDomain]:
    """Return every domain handle in a message, in the order of the wire."""
    if isinstance(value, RemoteNonnullDomain):
        return [value]
    if isinstance(value, list):
        return [found for item in value for found in domains(item)]
    if isinstance(value, Message):
        return [found for name in value.__struct_fields__ for found in domains(getattr(value, name))]
    return []


def with_ids(value: Any, new_id: Any) -> Any:
    """Return the message with every domain's id changed, the slow way."""
    if isinstance(value, RemoteNonnullDomain):
        return msgspec.structs.replace(value, id=new_id(value.uuid, value.id))
    if isinstance(value, list):
        return [with_ids(item, new_id) for item in value]
    if isinstance(value, Message):
        parts = {name: with_ids(getattr(value, name), new_id) for name in value.__struct_fields__}
        return msgspec.structs.replace(value, **parts)
    return value


def with_names(value: Any, names: dict[bytes, tuple[str, str]]) -> Any:
    """Return the message with every domain's name changed, the slow way."""
    if isinstance(value, RemoteNonnullDomain):
        old, new = names[value.uuid]
        return msgspec.structs.replace(value, name=new if value.name == old else value.name)
    if isinstance(value, list):
        return [with_names(item, names) for item in value]
    if isinstance(value, Message):
        parts = {name: with_names(getattr(value, name), names) for name in value.__struct_fields__}
        return msgspec.structs.replace(value, **parts)
    return value


def test_every_procedure_of_the_facts_is_there_with_what_the_facts_say() -> None:
    programs = facts.FACTS["programs"]
    assert len(PROCEDURES) == len(BY_NAME) == len(facts.FACTS["procedures"]) == 483
    for row in facts.FACTS["procedures"]:
        found = PROCEDURES[programs[row["program"]]["id"], row["number"]]
        assert BY_NAME[f"{row['program']}:{row['name']}"] is found
        assert (found.kind, found.priority, found.newer) == (
            row["kind"],
            row["priority"],
            row["since_newer_than_9_0"],
        )
        assert (list(found.acl), list(found.aclfilter)) == (row["acl"], row["aclfilter"])
        for part in ("args", "ret", "msg"):
            assert getattr(found, part) is (facts.class_of(row[part]) if row[part] else None)


def test_every_procedure_has_the_class_and_handles_of_the_facts() -> None:
    for row in CLASSES["procedures"]:
        found = BY_NAME[f"{row['program']}:{row['name']}"]
        assert (found.cls, found.read_only, found.stream) == (
            row["class"],
            row.get("read_only"),
            row.get("stream"),
        )
        for part in ("args", "ret", "msg"):
            handles = [(".".join(handle.path), handle.kind) for handle in getattr(found, part + "_handles")]
            assert handles == [(handle["path"], handle["kind"]) for handle in row.get(part + "_handles", [])]
        assert (found.domain_path is not None) == (bool(row["route"]) and row["route"]["by"] == "domain")


def test_a_part_has_a_walker_exactly_when_the_facts_name_a_domain_in_it() -> None:
    named = {
        (found.full_name, part)
        for found in PROCEDURES.values()
        for part in ("args", "ret", "msg")
        if any(handle.kind == "domain" for handle in getattr(found, part + "_handles"))
    }
    assert named == set(PARTS)


def test_streams_and_sparse_flags_are_those_of_the_eight_streaming_calls() -> None:
    streams = {found.name: found for found in PROCEDURES.values() if found.stream}
    assert len(streams) == 8
    assert {name for name, found in streams.items() if found.sparse} == {
        "STORAGE_VOL_UPLOAD",
        "STORAGE_VOL_DOWNLOAD",
    }
    assert all(found.readstream or found.writestream for found in streams.values())


def test_events_are_found_by_kind_and_id() -> None:
    lifecycle = EVENTS["domain"].events[constants.VIR_DOMAIN_EVENT_ID_LIFECYCLE]
    assert (lifecycle.number, lifecycle.legacy_number) == (318, 107)
    assert EVENTS["domain"].legacy_register[0] == "CONNECT_DOMAIN_EVENT_REGISTER"
    for table in EVENTS.values():
        assert f"remote:{table.register}" in BY_NAME
        for event in table.events.values():
            assert BY_NAME[f"remote:{event.message}"].number == event.number


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_rewriting_ids_is_what_decoding_and_encoding_would_give(name: str, part: Part) -> None:
    procedure = BY_NAME[name]
    cls = getattr(procedure, part)

    @few
    @given(facts.struct_values(WIRE_NAMES[cls.__name__]), st.binary(max_size=3))
    def check(message: Any, tail: bytes) -> None:
        def new_id(uuid: bytes, node_id: int) -> int:
            seen.append((uuid, node_id))
            return (node_id ^ uuid[0] ^ 1) % 2**31

        seen: list[tuple[bytes, int]] = []
        data = message.to_bytes() + tail
        assert rewrite_domains(procedure, part, data, new_id) == with_ids(message, new_id).to_bytes() + tail
        assert seen[: len(seen) // 2] == [(domain.uuid, domain.id) for domain in domains(message)]
        assert rewrite_domains(procedure, part, data, lambda uuid, node_id: node_id) is data

    check()


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_renaming_is_what_decoding_and_encoding_would_give(name: str, part: Part) -> None:
    procedure = BY_NAME[name]
    cls = getattr(procedure, part)

    @few
    @given(facts.struct_values(WIRE_NAMES[cls.__name__]), st.binary(max_size=3), st.text(max_size=9))
    def check(message: Any, tail: bytes, addition: str) -> None:
        names = {one.uuid: (one.name, one.name + addition) for one in domains(message)}
        other = {uuid: (old + "x", new) for uuid, (old, new) in names.items()}
        data = message.to_bytes() + tail
        assert rename_domains(procedure, part, data, {}) is data
        assert rename_domains(procedure, part, data, other) == data
        wanted = with_names(message, names).to_bytes() + tail
        assert rename_domains(procedure, part, data, names) == wanted

    check()


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_rewriting_cut_or_foreign_bytes_is_an_xdr_error_or_changes_nothing_else(
    name: str, part: Part
) -> None:
    procedure = BY_NAME[name]
    cls = getattr(procedure, part)

    @few
    @given(facts.struct_values(WIRE_NAMES[cls.__name__]), st.integers(0, 200), st.binary(max_size=60))
    def check(message: Any, size: int, noise: bytes) -> None:
        for data in (message.to_bytes()[:size], noise):
            try:
                after = rewrite_domains(procedure, part, data, lambda uuid, node_id: 7)
            except XdrError:
                continue
            assert len(after) == len(data)

    check()


def by_domain() -> list[Procedure]:
    return [found for found in PROCEDURES.values() if found.domain_skip is not None]


@pytest.mark.parametrize("procedure", by_domain(), ids=lambda procedure: procedure.full_name)
def test_the_uuid_of_the_domain_is_read_without_decoding_the_rest(procedure: Procedure) -> None:
    assert procedure.args is not None
    name = WIRE_NAMES[procedure.args.__name__]

    @few
    @given(facts.struct_values(name))
    def check(message: Any) -> None:
        data = message.to_bytes()
        found = domain_uuid(procedure, data)
        assert found == domains(message)[0].uuid
        at = data.index(found)
        for size in (0, 3, at, at + 15):
            with pytest.raises(XdrError):
                domain_uuid(procedure, data[:size])

    check()


def test_the_calls_with_a_domain_at_a_fixed_place_are_those_that_the_facts_route_by_domain() -> None:
    loose = {found.name for found in PROCEDURES.values() if found.domain_path and found.domain_skip is None}
    assert loose == {
        "CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY",
        "CONNECT_DOMAIN_MONITOR_EVENT_REGISTER",
        "CONNECT_GET_ALL_DOMAIN_STATS",
    }
    assert len(by_domain()) == 183
    for name in ("remote:CONNECT_GET_ALL_DOMAIN_STATS", "remote:NODE_GET_INFO"):
        with pytest.raises(XdrError):
            domain_uuid(BY_NAME[name], bytes(100))


def test_a_name_over_the_limit_hides_no_uuid() -> None:
    state = BY_NAME["remote:DOMAIN_GET_STATE"]
    data = RemoteDomainGetStateArgs(RemoteNonnullDomain("web", b"u" * 16, 1), 0).to_bytes()
    assert domain_uuid(state, data) == b"u" * 16
    with pytest.raises(XdrError):
        domain_uuid(state, struct.pack(">I", 2**32 - 1) + data)


def test_constants_are_the_facts_and_the_headers() -> None:
    enums = {**json.loads((TOOLS / "enums.json").read_text()), **facts.FACTS["enums"]}
    for name, members in enums.items():
        if name.endswith("_procedure") and name != "keepalive_procedure":
            continue
        cls = getattr(constants, "".join(word[:1].upper() + word[1:] for word in name.split("_")))
        assert {member.value for member in cls} == set(members.values())
        for member, value in members.items():
            assert getattr(constants, member) == value
    assert constants.VirErrorNumber.ERR_NO_DOMAIN == constants.VIR_ERR_NO_DOMAIN == 42
    assert constants.VirDomainState.PAUSED == 3
