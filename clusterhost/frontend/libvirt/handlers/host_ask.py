"""How handlers of the host ask nodes: one, the first that can, or all.  Knows no sockets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast

from clusterhost.frontend.libvirt import errors
from clusterhost.frontend.libvirt.hostview import Encoded, HostView
from clusterhost.model.errors import ClusterError, NodeError, NodeUnreachable
from clusterhost.service.ports import Answer
from compat.libvirt.schema import BY_NAME, Procedure
from compat.libvirt.xdr import Message

MAX_CELLS = 1024
"""REMOTE_NODE_MAX_CELLS: cells, or page sizes times cells, in one answer."""


class Session(Protocol):
    """What these handlers need of a session."""

    @property
    def world(self) -> Any: ...
    @property
    def view(self) -> str | None: ...
    @property
    def readonly(self) -> bool: ...


Result = Message | Encoded | None
Handler = Callable[[Any, Any], Result | Awaitable[Result]]


def host_view(session: Session) -> HostView:
    """The one of the world (typed loosely there: the service layer does not know front ends)."""
    return cast(HostView, session.world.host)


# ---- asking nodes ----


def procedure(name: str) -> Procedure:
    """A procedure of the remote program."""
    return BY_NAME[f"remote:{name}"]


async def ask(session: Session, node: str, asked: Procedure, args: Message | None) -> Encoded:
    """The answer of one node's libvirtd; NodeError with its own error, NodeUnreachable, DeadlinePassed."""
    answer = await session.world.nodes.call(
        node,
        asked.program_id,
        asked.number,
        b"" if args is None else args.to_bytes(),
        readonly=session.readonly,
        deadline=host_view(session).deadline,
    )
    if not answer.ok:
        raise NodeError(answer.payload)
    return Encoded(answer.payload)


def relay_to_view(session: Session, asked: Procedure, args: Message | None) -> Awaitable[Encoded]:
    """The call as it is, to the only node that the session sees."""
    assert session.view is not None
    return ask(session, session.view, asked, args)


async def ask_one(session: Session, asked: Procedure, args: Message | None) -> Encoded:
    """The answer of the first node that gives one: for what any node can work out."""
    first: ClusterError | None = None
    for cell in host_view(session).able():
        try:
            return await ask(session, cell.node.name, asked, args)
        except NodeError:
            raise
        except ClusterError as error:
            first = first or error
    raise first or NodeUnreachable(host_view(session).nobody())


async def ask_all(
    session: Session, asked: Procedure, args: Message | None, *, lenient: bool = False
) -> list[bytes]:
    """Answers of all nodes that can be reached, by cell.  A node's own error is everybody's, unless `lenient`
    and another node could answer."""
    view = host_view(session)
    names = [cell.node.name for cell in view.able()]
    found: dict[str, Answer | ClusterError] = await session.world.nodes.fan_out(
        names,
        asked.program_id,
        asked.number,
        b"" if args is None else args.to_bytes(),
        readonly=session.readonly,
        deadline=view.deadline,
    )
    answers = [found[name] for name in names if name in found]
    good = [answer.payload for answer in answers if isinstance(answer, Answer) and answer.ok]
    refused = [answer.payload for answer in answers if isinstance(answer, Answer) and not answer.ok]
    if refused and not (lenient and good):
        raise NodeError(refused[0])
    if not good:
        raise next(
            (answer for answer in answers if isinstance(answer, ClusterError)),
            NodeUnreachable(view.nobody()),
        )
    return good


def no_flags(asked: Procedure, flags: int) -> None:
    if flags:
        raise errors.unsupported_flags(flags, asked)


def too_many(what: str, found: int, allowed: int) -> ClusterError:
    """More than the protocol can carry."""
    return errors.internal(f"too many {what}: {found} > {allowed}")


def cell_range(view: HostView, start: int, count: int) -> range:
    """Cell numbers asked for, cut at the last cell as libvirt does."""
    if count > MAX_CELLS:
        raise too_many("NUMA cells", count, MAX_CELLS)
    if not view.cells:
        raise NodeUnreachable(view.nobody())
    last = view.cells[-1].node.cell
    if not -1 <= start <= last:
        raise errors.of_host(f"start cell {start} out of range (0-{last})")
    return range(start, min(start + count - 1, last) + 1)
