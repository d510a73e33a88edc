"""How handlers are run: decode, call, answer now or when it is done.  Knows no procedure.

Three conventions of a handler: `struct` ones get (session, args) and give a ret struct, its bytes, None, or
an awaitable of these; `fast` ones get (session, payload) and give ret bytes at once, or None to have the call
relayed; `use case` ones get (session, procedure, payload, args) and give an awaitable Answer with node ids.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clusterhost.frontend.libvirt import errors, passthrough
from clusterhost.frontend.libvirt.route import Route
from clusterhost.model.errors import NodeError
from clusterhost.service.ports import Answer
from compat.libvirt.errors import XdrError
from compat.libvirt.events import Call
from compat.libvirt.xdr import Message

if TYPE_CHECKING:
    from clusterhost.frontend.libvirt.session import Session


def decoded(route: Route, payload: bytes) -> Any:
    """The args struct, None when the procedure has none.  XdrError."""
    kind = route.procedure.args
    return None if kind is None else kind.from_bytes(payload)


def answer(session: Session, call: Call, result: Message | bytes | None) -> None:
    """Send a handler's result."""
    if result is None:
        session.reply(call)
    elif isinstance(result, bytes):
        session.reply(call, result)
    else:
        try:
            payload = result.to_bytes()
        except XdrError as error:
            session.fail(call, errors.not_encoded(error))
            return
        session.reply(call, payload)


def run_struct(session: Session, call: Call, route: Route) -> None:
    """A `struct` handler."""
    assert route.handler is not None
    result = route.handler(session, decoded(route, call.payload))
    if result is None or isinstance(result, (bytes, Message)):
        answer(session, call, result)
    else:
        session.spawn(call, result, lambda done: answer(session, call, done))


def run_fast(session: Session, call: Call, route: Route) -> None:
    """A `fast` handler; what the model may not answer is relayed to the domain's node."""
    assert route.handler is not None
    payload = route.handler(session, call.payload)
    if payload is None:
        passthrough.relay_domain(session, call, route)
    else:
        session.reply(call, payload)


def run_use_case(session: Session, call: Call, route: Route) -> None:
    """A `use case` handler: access has been checked, the XML has not been looked at."""
    assert route.handler is not None
    if call.fds:
        raise errors.no_support(route.procedure)
    # What libvirt ties to a connection (autodestroy, a migration) may now exist at a node.
    session.tied = True
    work = route.handler(session, route.procedure, call.payload, decoded(route, call.payload))
    session.spawn(call, work, lambda done: finish(session, call, route, done))


def finish(session: Session, call: Call, route: Route, result: Answer | None) -> None:
    """Answer with what a use case brought back from a node."""
    if result is None:
        session.reply(call)
    elif result.ok:
        session.reply(call, session.translator.ret(route, result.payload))
    else:
        session.fail(call, NodeError(result.payload))


def run_any_node(session: Session, call: Call, route: Route) -> None:
    """Whichever node can."""
    session.spawn(
        call, passthrough.any_node(session, call, route), lambda payload: session.reply(call, payload)
    )


def run_close(session: Session, call: Call, route: Route) -> None:
    """CONNECT_CLOSE: the reply is sent, then the connection ends."""
    session.reply(call)
    session.close_when_answered()


def run_unsupported(session: Session, call: Call, route: Route) -> None:
    """What clients fall back on."""
    raise errors.no_support(route.procedure)


def run_event(session: Session, call: Call, route: Route) -> None:
    """Nobody calls an event."""
    raise errors.unknown_procedure(route.procedure.number)
