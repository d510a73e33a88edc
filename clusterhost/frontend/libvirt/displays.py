"""DOMAIN_OPEN_GRAPHICS and _FD: a descriptor of the client's on this side, one of the node's libvirtd on the other, and
between them a tunnel.  libvirtd's own answer decides; what is said on the display is bytes.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from clusterhost.frontend.libvirt import errors
from clusterhost.frontend.libvirt.passthrough import reachable
from clusterhost.frontend.libvirt.route import Route
from clusterhost.model.errors import NodeError
from clusterhost.service.ports import Answer
from compat.libvirt import schema
from compat.libvirt.events import Call

if TYPE_CHECKING:
    from clusterhost.frontend.libvirt.session import Session

USUAL_DEADLINE = 30.0


def open_display_fd(session: Session, call: Call, route: Route) -> None:
    """OPEN_GRAPHICS_FD: the client gets one end of a pair.  A TCP client cannot: as no call with descriptors can."""
    if not session.transport.unix:
        raise errors.no_descriptors()
    node = _node(session, call, route)
    ours, theirs = socket.socketpair()

    def finish(answer: Answer) -> None:
        if answer.ok:
            session.reply_with_descriptor(call, answer.payload, theirs.detach())
        else:
            session.fail(call, NodeError(answer.payload))

    _open(session, call, node, ours, finish, theirs.close)


def open_display(session: Session, call: Call, route: Route) -> None:
    """OPEN_GRAPHICS: the client brings its end."""
    fd = session.descriptors.taken()
    if fd is None:
        raise errors.no_descriptor_came()
    try:
        ours = socket.socket(fileno=fd)
    except OSError:
        # Python does not take over what is no socket: only what is said on a connection can be carried.
        session.descriptors.given.append(fd)
        raise errors.no_support(route.procedure) from None
    try:
        node = _node(session, call, route)
    except BaseException:
        ours.close()
        raise

    def finish(answer: Answer) -> None:
        if answer.ok:
            session.reply(call, answer.payload)
        else:
            session.fail(call, NodeError(answer.payload))

    _open(session, call, node, ours, finish, lambda: None)


def _node(session: Session, call: Call, route: Route) -> str:
    domain = session.cluster.by_uuid(schema.domain_uuid(route.procedure, call.payload), session.view)
    return reachable(session.cluster, domain.node).name


def _open(
    session: Session,
    call: Call,
    node: str,
    ours: socket.socket,
    finish: Callable[[Answer], None],
    undo: Callable[[], None],
) -> None:
    ours.setblocking(False)

    async def opening() -> Answer:
        try:
            return await session.world.nodes.open_socket(
                node,
                call.program,
                call.procedure,
                call.payload,
                ours,
                readonly=session.readonly,
                deadline=session.front.deadline or USUAL_DEADLINE,
            )
        except BaseException:
            undo()
            raise

    def finished(answer: Answer) -> None:
        try:
            finish(answer)
        finally:
            # Detached by now when the client has it.
            undo()

    session.spawn(call, opening(), finished)
