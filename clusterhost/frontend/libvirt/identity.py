"""The identity that CONNECT_SET_IDENTITY tells, looked at as libvirtd looks at it.  Gives no right: no I/O."""

from __future__ import annotations

from collections.abc import Sequence

from clusterhost.frontend.libvirt import errors
from compat.libvirt.messages import RemoteTypedParam
from compat.libvirt.typedparams import LLONG, STRING, ULLONG

TYPE_NAMES = ("unknown", "int", "uint", "llong", "ullong", "double", "boolean", "string")
KNOWN = {
    "group-name": STRING,
    "process-id": LLONG,
    "process-time": ULLONG,
    "sasl-user-name": STRING,
    "selinux-context": STRING,
    "unix-group-id": ULLONG,
    "unix-user-id": ULLONG,
    "user-name": STRING,
    "x509-distinguished-name": STRING,
}
"""VIR_CONNECT_IDENTITY_*"""
LONGEST = 200
"""Characters of it in the audit line."""


def checked(params: Sequence[RemoteTypedParam]) -> str:
    """What the audit line says, empty for nobody.  WireError for what libvirt refuses, the first by name."""
    last = ""
    ordered = sorted(params, key=lambda param: param.field)
    for param in ordered:
        wanted = KNOWN.get(param.field)
        if wanted is None:
            raise errors.unknown_parameter(f"parameter '{param.field}' not supported")
        if param.field == last:
            raise errors.invalid_parameter(f"parameter '{param.field}' occurs multiple times")
        if param.value.type != wanted:
            found, allowed = TYPE_NAMES[param.value.type], TYPE_NAMES[wanted]
            text = f"invalid type '{found}' for parameter '{param.field}', expected '{allowed}'"
            raise errors.invalid_parameter(text)
        last = param.field
    told = ",".join(f"{param.field}={param.value.value!s}" for param in ordered)
    return "".join(letter if letter.isprintable() else "?" for letter in told)[:LONGEST]
