"""A domain of libvirt's test driver, defined and removed through a control plane in this process."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from compat.libvirt import messages as wire
from tests.support.control import ControlPlane, number

UUID_TEXT = "11111111-2222-3333-4444-555555555555"
UUID_BYTES = UUID(UUID_TEXT).bytes
REMOTE_LIFECYCLE = number("remote:DOMAIN_EVENT_CALLBACK_LIFECYCLE")


def xml_of(name: str, uuid: str = UUID_TEXT, memory: int = 8192) -> str:
    head = f"<domain type='test'><name>{name}</name><uuid>{uuid}</uuid><memory>{memory}</memory>"
    return f"{head}<os><type>hvm</type></os></domain>"


def handle(uuid: bytes = UUID_BYTES) -> wire.RemoteNonnullDomain:
    return wire.RemoteNonnullDomain("-", uuid, -1)


async def define(plane: ControlPlane, name: str = "d1", **options: Any) -> Any:
    args = wire.RemoteDomainDefineXmlFlagsArgs(xml_of(name), 0)
    return await plane.call("n1", "remote:DOMAIN_DEFINE_XML_FLAGS", args, report=UUID_BYTES, **options)


async def forget(plane: ControlPlane) -> None:
    for name, args in (
        ("remote:DOMAIN_DESTROY", wire.RemoteDomainDestroyArgs(handle())),
        ("remote:DOMAIN_UNDEFINE_FLAGS", wire.RemoteDomainUndefineFlagsArgs(handle(), 0)),
    ):
        await plane.hub.call("n1", *number(name), args.to_bytes(), report=UUID_BYTES)
