"""Definitions and starts: wire to use case.  The work is in clusterhost.service.domains."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from clusterhost.model.errors import InvalidArgument
from clusterhost.service.ports import Answer
from compat.libvirt import messages
from compat.libvirt.schema import Procedure

if TYPE_CHECKING:
    from clusterhost.frontend.libvirt.session import Session

SAVE_FILE = "file"
"""VIR_DOMAIN_SAVE_PARAM_FILE"""


def define(session: Session, procedure: Procedure, payload: bytes, args: Any) -> Awaitable[Answer]:
    """DOMAIN_DEFINE_XML(_FLAGS)."""
    return session.world.numbering.define(session.caller, procedure, payload, args.xml)


def create_xml(session: Session, procedure: Procedure, payload: bytes, args: Any) -> Awaitable[Answer]:
    """DOMAIN_CREATE_XML, and _WITH_FILES without any."""
    return session.world.numbering.create_xml(session.caller, procedure, payload, args.xml_desc, args.flags)


def start(session: Session, procedure: Procedure, payload: bytes, args: Any) -> Awaitable[Answer]:
    """DOMAIN_CREATE, _WITH_FLAGS, and _WITH_FILES without any."""
    flags = getattr(args, "flags", 0)
    session.world.networking.guests.check_start(args.dom.uuid)
    return session.world.domains.start(session.caller, procedure, payload, args.dom.uuid, flags)


def undefine(session: Session, procedure: Procedure, payload: bytes, args: Any) -> Awaitable[Answer]:
    """DOMAIN_UNDEFINE(_FLAGS)."""
    return session.world.domains.undefine(session.caller, procedure, payload, args.dom.uuid)


def rename(session: Session, procedure: Procedure, payload: bytes, args: Any) -> Awaitable[Answer]:
    """DOMAIN_RENAME."""
    if not args.new_name:
        raise InvalidArgument("a domain cannot be renamed to nothing")
    return session.world.domains.rename(session.caller, procedure, payload, args.dom.uuid, args.new_name)


def restore(session: Session, procedure: Procedure, payload: bytes, args: Any) -> Awaitable[Answer]:
    """DOMAIN_RESTORE and its later forms."""
    return session.world.domains.restore(session.caller, procedure, payload, saved_file(args))


def save_image(session: Session, procedure: Procedure, payload: bytes, args: Any) -> Awaitable[Answer]:
    """Read or edit the XML in a save file, on a node that has it."""
    return session.world.domains.save_image(session.caller, procedure, payload, args.file)


def saved_file(args: Any) -> str:
    """The path in any of the three forms of arguments.  InvalidArgument."""
    if isinstance(args, messages.RemoteDomainRestoreParamsArgs):
        for param in args.params:
            if param.field == SAVE_FILE:
                return str(param.value.value)
        raise InvalidArgument(f"the parameter '{SAVE_FILE}' is missing")
    return str(getattr(args, "from_", None) or getattr(args, "from"))


async def set_autostart(session: Session, procedure: Procedure, payload: bytes, args: Any) -> None:
    """The cluster's flag; no node's libvirtd is to start a domain by itself."""
    await session.world.domains.set_autostart(session.caller, args.dom.uuid, bool(args.autostart))
