"""Events of nodes as clients shall see them: ids are the cluster's, and nothing tells of a copy.  No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from clusterhost.model.domain import Domain
from clusterhost.service.ports import ClusterEvent
from compat.libvirt import messages
from compat.libvirt.schema import BY_NAME, PROCEDURES, Procedure, rename_domains, rewrite_domains

LIFECYCLE = BY_NAME["remote:DOMAIN_EVENT_CALLBACK_LIFECYCLE"]
_LIFECYCLE_KEY = (LIFECYCLE.program_id, LIFECYCLE.number)

Subscriber = Callable[[ClusterEvent], None]
IdOf = Callable[[bytes, int], int]
"""uuid, the node's id -> the id that clients know"""


class EventBus:
    """Hands each event to everyone, in order."""

    def __init__(self) -> None:
        self._subscribers: tuple[Subscriber, ...] = ()

    def subscribe(self, callback: Subscriber) -> Callable[[], None]:
        """Call `callback` with every event (on the loop, it must not block); returns how to stop it."""
        self._subscribers = (*self._subscribers, callback)

        def stop() -> None:
            self._subscribers = tuple(one for one in self._subscribers if one is not callback)

        return stop

    def publish(self, event: ClusterEvent) -> None:
        """Give it to all subscribers."""
        for subscriber in self._subscribers:
            subscriber(event)


def event_kind(program: int, number: int) -> Procedure | None:
    """The schema's row of an event, None for calls and for what is newer than the schema."""
    procedure = PROCEDURES.get((program, number))
    return procedure if procedure is not None and procedure.kind == "event" else None


def is_lifecycle(program: int, number: int) -> bool:
    """It is the lifecycle event."""
    return (program, number) == _LIFECYCLE_KEY


def read_lifecycle(payload: bytes) -> tuple[messages.RemoteNonnullDomain, int, int]:
    """Domain handle (the node's ids), event, detail."""
    message = messages.RemoteDomainEventCallbackLifecycleMsg.from_bytes(payload).msg
    return message.dom, message.event, message.detail


def translated(
    procedure: Procedure, payload: bytes, node: str, id_of: IdOf, names: Mapping[bytes, tuple[str, str]]
) -> ClusterEvent | None:
    """The event with the cluster's ids, and the names of model.Cluster.renamed; None when it is about no domain."""
    seen: list[bytes] = []

    def note(uuid: bytes, number: int) -> int:
        seen.append(uuid)
        return id_of(uuid, number)

    rewritten = rewrite_domains(procedure, "msg", payload, note)
    if not seen:
        return None
    if names:
        rewritten = rename_domains(procedure, "msg", rewritten, names)
    return ClusterEvent(procedure.program_id, procedure.number, rewritten, seen[0], node)


def lifecycle(domain: Domain, event: int, detail: int) -> ClusterEvent:
    """A lifecycle event of our own making (a node came back and things are not as they were)."""
    handle = messages.RemoteNonnullDomain(name=domain.known_as or domain.name, uuid=domain.uuid, id=domain.id)
    body = messages.RemoteDomainEventLifecycleMsg(dom=handle, event=event, detail=detail)
    message = messages.RemoteDomainEventCallbackLifecycleMsg(callbackID=0, msg=body)
    return ClusterEvent(LIFECYCLE.program_id, LIFECYCLE.number, message.to_bytes(), domain.uuid, domain.node)
