"""Registrations of events: wire to the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compat.libvirt import messages

if TYPE_CHECKING:
    from clusterhost.frontend.libvirt.session import Session

LIFECYCLE = 0


def register(
    session: Session, args: messages.RemoteConnectDomainEventCallbackRegisterAnyArgs
) -> messages.RemoteConnectDomainEventCallbackRegisterAnyRet:
    """Callback form."""
    number = session.front.registry.register(session, args.eventID, args.dom.uuid if args.dom else None)
    return messages.RemoteConnectDomainEventCallbackRegisterAnyRet(callbackID=number)


def deregister(session: Session, args: messages.RemoteConnectDomainEventCallbackDeregisterAnyArgs) -> None:
    """Callback form."""
    session.front.registry.deregister(session, args.callbackID)


def register_lifecycle(session: Session, args: None) -> messages.RemoteConnectDomainEventRegisterRet:
    """The oldest form."""
    session.front.registry.register_legacy(session, LIFECYCLE)
    return messages.RemoteConnectDomainEventRegisterRet(cb_registered=0)


def deregister_lifecycle(session: Session, args: None) -> messages.RemoteConnectDomainEventDeregisterRet:
    """The oldest form."""
    session.front.registry.deregister_legacy(session, LIFECYCLE)
    return messages.RemoteConnectDomainEventDeregisterRet(cb_registered=0)


def register_any(session: Session, args: messages.RemoteConnectDomainEventRegisterAnyArgs) -> None:
    """The old form for ids up to 15."""
    session.front.registry.register_legacy(session, args.eventID)


def deregister_any(session: Session, args: messages.RemoteConnectDomainEventDeregisterAnyArgs) -> None:
    """The old form for ids up to 15."""
    session.front.registry.deregister_legacy(session, args.eventID)


def register_monitor(session: Session, args: Any) -> messages.QemuConnectDomainMonitorEventRegisterRet:
    """QEMU's monitor events."""
    number = session.front.registry.register_monitor(
        session, args.dom.uuid if args.dom else None, args.event, args.flags
    )
    return messages.QemuConnectDomainMonitorEventRegisterRet(callbackID=number)


def deregister_monitor(session: Session, args: Any) -> None:
    """QEMU's monitor events."""
    session.front.registry.deregister(session, args.callbackID, "qemu monitor")


def register_network(session: Session, args: Any) -> messages.RemoteConnectNetworkEventRegisterAnyRet:
    """Events of networks."""
    uuid = args.net.uuid if args.net else None
    number = session.front.registry.register(session, args.eventID, uuid, "network")
    return messages.RemoteConnectNetworkEventRegisterAnyRet(callbackID=number)


def deregister_network(session: Session, args: Any) -> None:
    """Events of networks."""
    session.front.registry.deregister(session, args.callbackID, "network")


def register_pool(session: Session, args: Any) -> messages.RemoteConnectStoragePoolEventRegisterAnyRet:
    """Events of storage pools."""
    uuid = args.pool.uuid if args.pool else None
    number = session.front.registry.register(session, args.eventID, uuid, "storage-pool")
    return messages.RemoteConnectStoragePoolEventRegisterAnyRet(callbackID=number)


def deregister_pool(session: Session, args: Any) -> None:
    """Events of storage pools."""
    session.front.registry.deregister(session, args.callbackID, "storage-pool")
