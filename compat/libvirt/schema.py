"""What every procedure of libvirt's wire is, and how to find domain handles in its payloads.  Pure."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from compat.libvirt import messages
from compat.libvirt.constants import REMOTE_STRING_MAX
from compat.libvirt.errors import XdrError
from compat.libvirt.procedures import COLUMNS, EVENT_ROWS, ROWS
from compat.libvirt.walkers import WALKERS
from compat.libvirt.xdr import Message, short

Part = Literal["args", "ret", "msg"]

_UNPACK_COUNT = struct.Struct(">I").unpack_from
_ID = struct.Struct(">i")
_HANDLE = struct.Struct(">16si")


class Handle(NamedTuple):
    """An object handle inside a message.  In `path`, "x[]" is each item of an array, "x?" is optional."""

    path: tuple[str, ...]
    kind: str


@dataclass(frozen=True, slots=True)
class Procedure:
    """One procedure: facts of libvirt 9.0.0 to 11.3.0.

    `cls` is its class in the facts (domain, migration, stream ...), `sparse` the bit of `flags` that allows
    holes, `read_only` what a read-only connection may do, `domain_path` the members that lead to the handle
    of the domain it is about, `stream` the direction of its data, `fds` where descriptors
    travel ("in", "out"),
    `domain_skip` how many strings stand before that handle (None: it is not at a fixed place).
    """

    program: str
    program_id: int
    number: int
    name: str
    kind: Literal["call", "event"]
    args_name: str | None
    ret_name: str | None
    msg_name: str | None
    priority: Literal["low", "high"]
    readstream: bool
    writestream: bool
    sparse: int | None
    acl: tuple[str, ...]
    aclfilter: tuple[str, ...]
    cls: str
    read_only: Literal["denied", "conditional", "allowed"] | None
    args_begin_with: str | None
    domain_path: tuple[str, ...] | None
    args_handles: tuple[Handle, ...]
    ret_handles: tuple[Handle, ...]
    msg_handles: tuple[Handle, ...]
    tags: tuple[str, ...]
    newer: bool
    stream: Literal["client-to-server", "server-to-client", "both"] | None
    fds: tuple[str, ...]
    domain_skip: int | None

    @property
    def args(self) -> type[Message] | None:
        """The class of the arguments, loaded when first asked for."""
        return message_class(self.args_name)

    @property
    def ret(self) -> type[Message] | None:
        """The class of the result."""
        return message_class(self.ret_name)

    @property
    def msg(self) -> type[Message] | None:
        """The class of an event's body."""
        return message_class(self.msg_name)

    @property
    def full_name(self) -> str:
        """The key of BY_NAME: "remote:DOMAIN_CREATE"."""
        return f"{self.program}:{self.name}"


class Event(NamedTuple):
    """An event of one object kind: its id, its message, and the message of old clients where there is one."""

    id: int
    id_name: str
    message: str
    number: int
    legacy_message: str | None
    legacy_number: int | None


class EventTable(NamedTuple):
    """The procedures that (de)register the events of one kind of object, and the events by id."""

    register: str
    deregister: str
    legacy_register: tuple[str, ...]
    legacy_deregister: tuple[str, ...]
    events: dict[int, Event]


def message_class(name: str | None) -> type[Message] | None:
    """Return the class of that name; None for a procedure that sends nothing there."""
    if name is None:
        return None
    found: type[Message] = getattr(messages, name)
    return found


def _skip(path: tuple[str, ...] | None) -> int | None:
    """A snapshot or checkpoint handle begins with its name, then comes the domain; else it is not fixed."""
    if path == ("dom",):
        return 0
    return 1 if path and len(path) == 2 and path[1] == "dom" else None


def _procedure(row: tuple[Any, ...]) -> Procedure:
    values: dict[str, Any] = dict(zip(COLUMNS, row, strict=True))
    for part in ("args", "ret", "msg"):
        values[part + "_name"] = values.pop(part)
        values[part + "_handles"] = tuple(Handle(*handle) for handle in values[part + "_handles"])
    return Procedure(**values, domain_skip=_skip(values["domain_path"]))


PROCEDURES: dict[tuple[int, int], Procedure] = {
    (found.program_id, found.number): found for found in map(_procedure, ROWS)
}
BY_NAME: dict[str, Procedure] = {found.full_name: found for found in PROCEDURES.values()}
CALLS: frozenset[tuple[int, int]] = frozenset(
    key for key, found in PROCEDURES.items() if found.kind == "call"
)
BEFORE_AUTH: frozenset[tuple[int, int]] = frozenset(
    key for key, found in PROCEDURES.items() if "allowed-before-auth" in found.tags
)
LAST: dict[int, int] = dict(sorted(PROCEDURES))
EVENTS: dict[str, EventTable] = {
    row[0]: EventTable(row[1], row[2], row[3], row[4], {event[0]: Event(*event) for event in row[5]})
    for row in EVENT_ROWS
}


def domain_uuid(procedure: Procedure, payload: bytes) -> bytes:
    """Return the uuid of the domain that the arguments are about, without decoding the rest.

    Works where the handle begins the arguments or is in the snapshot or checkpoint handle that does;
    XdrError elsewhere, and when the bytes are too few.
    """
    skip = procedure.domain_skip
    if skip is None:
        raise XdrError(procedure.full_name, "no domain at a fixed place", "procedures with a domain_skip")
    try:
        (count,) = _UNPACK_COUNT(payload)
        end = 4 + ((count + 3) & -4)
        if skip:
            (count,) = _UNPACK_COUNT(payload, end)
            end += 4 + ((count + 3) & -4)
    except struct.error:
        raise short(procedure.full_name, payload) from None
    uuid = payload[end : end + 16]
    if len(uuid) != 16 or count > REMOTE_STRING_MAX:
        raise short(procedure.full_name, payload)
    return uuid


def rename_domains(
    procedure: Procedure, part: Part, payload: bytes, names: Mapping[bytes, tuple[str, str]]
) -> bytes:
    """Return the payload with the name of every domain handle whose uuid is in `names` changed from the first to the
    second; a handle with another name is left alone.  XdrError as rewrite_domains()."""
    at = _handles(procedure, part, payload)
    for where in reversed(at):
        old, new = map(_packed, names.get(payload[where : where + 16], ("", "")))
        if old != new and payload[where - len(old) : where] == old:
            payload = payload[: where - len(old)] + new + payload[where:]
    return payload


def _packed(name: str) -> bytes:
    data = name.encode("utf-8", "surrogateescape")
    return len(data).to_bytes(4, "big") + data + bytes(-len(data) % 4)


def _handles(procedure: Procedure, part: Part, payload: bytes) -> list[int]:
    """Where the uuid of each domain handle is."""
    name = getattr(procedure, part + "_name")
    walker = WALKERS.get(name)
    at: list[int] = []
    if walker is None:
        return at
    try:
        end = walker(payload, at)
    except struct.error:
        raise short(name, payload) from None
    if end > len(payload):
        raise short(name, payload)
    return at


def rewrite_domains(
    procedure: Procedure, part: Part, payload: bytes, new_id: Callable[[bytes, int], int]
) -> bytes:
    """Return the payload with the id of every domain handle replaced by new_id(uuid, id).

    Nothing else is decoded or changed; the very object comes back when there is nothing to change.
    XdrError when the bytes do not lead to the last handle.
    """
    at = _handles(procedure, part, payload)
    changed: bytearray | None = None
    for where in at:
        uuid, old = _HANDLE.unpack_from(payload, where)
        new = new_id(uuid, old)
        if new != old:
            if changed is None:
                changed = bytearray(payload)
            _ID.pack_into(changed, where + 16, new)
    return payload if changed is None else bytes(changed)
