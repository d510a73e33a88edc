"""One step of libvirt's migration protocol in any of its forms: what it says, and how to change it.  Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from compat.libvirt import typedparams
from compat.libvirt.schema import Procedure


class Kind(StrEnum):
    """The steps, and the end of a step's procedure name after DOMAIN_MIGRATE_."""

    BEGIN = "BEGIN"
    TUNNEL = "PREPARE_TUNNEL"
    PREPARE = "PREPARE"
    PERFORM = "PERFORM"
    FINISH = "FINISH"
    CONFIRM = "CONFIRM"


PEER2PEER = 1 << 1
TUNNELLED = 1 << 2
PERSIST_DEST = 1 << 3
UNDEFINE_SOURCE = 1 << 4
COPIES_DISKS = 1 << 6
COPIES_TOPS = 1 << 7
OFFLINE = 1 << 10
"""Bits of VIR_MIGRATE_*."""

_FIELDS = {
    "uri": (("uri_in", "uri"), "migrate_uri"),
    "dname": (("dname",), "destination_name"),
    "xml": (("dom_xml",), "destination_xml"),
}
"""What we read -> members in the plain forms, parameter in the typed ones."""


class Step:
    """A decoded step.  `get` and `set` know the plain and the typed-parameter forms."""

    def __init__(self, procedure: Procedure, payload: bytes) -> None:
        assert procedure.args is not None
        self.procedure = procedure
        self.payload = payload
        self.args: Any = procedure.args.from_bytes(payload)
        self.kind = kind_of(procedure)

    @property
    def uuid(self) -> bytes:
        """Of steps that begin with the domain's handle."""
        return bytes(self.args.dom.uuid)

    @property
    def flags(self) -> int:
        """VIR_MIGRATE_* bits."""
        return int(self.args.flags)

    @property
    def cancelled(self) -> bool:
        """The client has given up (FINISH, CONFIRM)."""
        return bool(getattr(self.args, "cancelled", getattr(self.args, "retcode", 0)))

    @property
    def dconnuri(self) -> str:
        """Where the source shall connect by itself (peer-to-peer)."""
        return getattr(self.args, "dconnuri", None) or ""

    def get(self, name: str) -> str:
        """uri, dname or xml; "" when it is not given."""
        members, parameter = _FIELDS[name]
        if hasattr(self.args, "params"):
            return str(typedparams.get(self.args.params, parameter, "") or "")
        for member in members:
            if hasattr(self.args, member):
                return getattr(self.args, member) or ""
        return ""

    @property
    def disks(self) -> frozenset[str] | None:
        """Those that shall be copied, by their names in the guest; None when the client names none."""
        params = getattr(self.args, "params", ())
        return frozenset(str(name) for name in typedparams.values(params, "migrate_disks")) or None

    def set(self, name: str, value: str) -> None:
        """Put uri, dname or xml in; forms that have no place for it stay as they are."""
        members, parameter = _FIELDS[name]
        if hasattr(self.args, "params"):
            kept = typedparams.remove(self.args.params, parameter)
            self._replace(params=typedparams.add(kept, parameter, typedparams.STRING, value))
            return
        for member in members:
            if hasattr(self.args, member):
                self._replace(**{member: value})

    def set_dconnuri(self, uri: str) -> None:
        """Send the source somewhere else."""
        self._replace(dconnuri=uri)

    def _replace(self, **changes: object) -> None:
        self.args = msgspec.structs.replace(self.args, **changes)
        self.payload = self.args.to_bytes()


def kind_of(procedure: Procedure) -> Kind:
    """Which step a procedure is; ValueError for others."""
    rest = procedure.name.removeprefix("DOMAIN_MIGRATE_")
    for kind in Kind:
        if rest.startswith(kind):
            return kind
    raise ValueError(f"{procedure.name} is no step of a migration")
