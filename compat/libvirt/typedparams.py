"""Typed parameters: libvirt's (name, type, value) lists to and from plain values.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from compat.libvirt.errors import XdrError
from compat.libvirt.messages.remote_common import RemoteTypedParam, RemoteTypedParamValue

INT, UINT, LLONG, ULLONG, DOUBLE, BOOLEAN, STRING = range(1, 8)
"""The types, by libvirt's numbers."""

Value = int | float | str | bool
NAME_LENGTH = 80
"""The name's size in libvirt's C structure, its NUL included: it refuses a longer one."""


def type_of(value: Value) -> int:
    """Return the type that fits a plain value: the smallest signed integer that holds it, then ULLONG."""
    if isinstance(value, bool):
        return BOOLEAN
    if isinstance(value, str):
        return STRING
    if isinstance(value, float):
        return DOUBLE
    if -(2**31) <= value < 2**31:
        return INT
    return LLONG if -(2**63) <= value < 2**63 else ULLONG


def param(name: str, type: int, value: Value) -> RemoteTypedParam:
    """Return one parameter.  XdrError for a name that libvirt refuses or a type that does not exist."""
    size = len(name.encode("utf-8", "surrogateescape"))
    if not 0 < size < NAME_LENGTH:
        raise XdrError("RemoteTypedParam.field", f"a name of {size} bytes", f"1 to {NAME_LENGTH - 1}")
    if not INT <= type <= STRING:
        raise XdrError("RemoteTypedParamValue.type", type, "1 to 7")
    return RemoteTypedParam(name, RemoteTypedParamValue(type, int(value) if type == BOOLEAN else value))


def to_params(values: Mapping[str, Value] | Iterable[tuple[str, int, Value]]) -> list[RemoteTypedParam]:
    """Return a list of parameters; of a mapping, each value has the type that type_of() gives it."""
    if isinstance(values, Mapping):
        return [param(name, type_of(value), value) for name, value in values.items()]
    return [param(name, type, value) for name, type, value in values]


def value_of(item: RemoteTypedParam) -> Value:
    """Return the plain value; a boolean is a bool."""
    value = item.value
    return bool(value.value) if value.type == BOOLEAN else value.value


def from_params(params: Iterable[RemoteTypedParam]) -> dict[str, Value]:
    """Return name -> value.  Of a name that comes twice (migrate_disks) the first counts; see values()."""
    found: dict[str, Value] = {}
    for item in params:
        found.setdefault(item.field, value_of(item))
    return found


def get(params: Iterable[RemoteTypedParam], name: str, default: Any = None) -> Any:
    """Return the first value of that name."""
    return next((value_of(item) for item in params if item.field == name), default)


def values(params: Iterable[RemoteTypedParam], name: str) -> list[Value]:
    """Return every value of that name, in order."""
    return [value_of(item) for item in params if item.field == name]


def add(params: list[RemoteTypedParam], name: str, type: int, value: Value) -> list[RemoteTypedParam]:
    """Return the list with one parameter more at its end."""
    return [*params, param(name, type, value)]


def replace(params: list[RemoteTypedParam], name: str, value: Value) -> list[RemoteTypedParam]:
    """Return the list with the value of every parameter of that name changed, its type and place kept.

    A name that is not there changes nothing: use add().
    """
    return [param(name, item.value.type, value) if item.field == name else item for item in params]


def remove(params: Iterable[RemoteTypedParam], name: str) -> list[RemoteTypedParam]:
    """Return the list without the parameters of that name."""
    return [item for item in params if item.field != name]
