"""Calls that a node answers: raw payloads there and back, ids translated.  No task or future for a call."""

from __future__ import annotations

import logging
from time import gmtime, strftime
from typing import TYPE_CHECKING

from clusterhost.frontend.libvirt import errors
from clusterhost.frontend.libvirt.route import Route
from clusterhost.frontend.libvirt.translate import handle_uuid
from clusterhost.model.cluster import Cluster
from clusterhost.model.errors import ClusterError, DomainNotFound, NodeError, NodeUnreachable
from clusterhost.model.node import Node
from clusterhost.service.describe import SAYS
from clusterhost.service.ports import Answer
from compat.libvirt import schema
from compat.libvirt.errors import XdrError
from compat.libvirt.events import Call

if TYPE_CHECKING:
    from clusterhost.frontend.libvirt.session import Session


log = logging.getLogger(__name__)


class Relayed:
    """What becomes of one relayed call: called once with the node's answer."""

    __slots__ = ("call", "mutating", "route", "session", "uuid")

    def __init__(
        self, session: Session, call: Call, route: Route | None, uuid: bytes | None, mutating: bool
    ) -> None:
        self.session = session
        self.call = call
        self.route = route
        self.uuid = uuid
        self.mutating = mutating

    def __call__(self, answer: Answer | ClusterError) -> None:
        if self.mutating and self.uuid is not None:
            self.session.cluster.end(self.uuid)
        try:
            self._answer(answer)
        except Exception:
            # The edge to the control plane: it calls this for every client and must go on with the others.
            log.exception("session %d: the answer of a node could not be passed on", self.session.number)
            self.session.drop("the answer of a node could not be passed on")

    def _answer(self, answer: Answer | ClusterError) -> None:
        session = self.session
        if not isinstance(answer, Answer):
            session.fail(self.call, answer)
        elif not answer.ok:
            session.fail(self.call, NodeError(answer.payload))
        elif self.route is None:
            session.reply(self.call, answer.payload)
        else:
            self._translated(self.route, answer.payload)

    def _translated(self, route: Route, payload: bytes) -> None:
        if route.rewrite or route.xml_id:
            try:
                payload = self.session.translator.ret(route, payload, self.uuid, self.session.view)
            except XdrError as error:
                self.session.fail(self.call, errors.not_encoded(error))
                return
        self.session.reply(self.call, payload)


def reachable(cluster: Cluster, name: str) -> Node:
    """The node, if calls can be sent to it; NodeUnreachable names it and says why not."""
    node = cluster.node(name)
    if not node.usable:
        reason = f": {node.reason}" if node.reason else ""
        raise NodeUnreachable(f"node {name} {SAYS[node.link]}{_since(node)}{reason}")
    return node


def _since(node: Node) -> str:
    return f" since {strftime('%Y-%m-%d %H:%M:%S UTC', gmtime(node.since))}" if node.since else ""


def relay_domain(session: Session, call: Call, route: Route) -> None:
    """To the node that has the domain named in the arguments.  DomainNotFound, NodeUnreachable, XdrError."""
    uuid = schema.domain_uuid(route.procedure, call.payload)
    cluster = session.cluster
    domain = cluster.by_uuid(uuid, session.view)
    if call.fds:
        raise errors.no_support(route.procedure)
    reachable(cluster, domain.node)
    _submit(session, call, route, domain.node, uuid, route.mutating, route.long)


def relay_view(session: Session, call: Call, route: Route) -> None:
    """To the node that the session sees: what is not about one domain."""
    assert session.view is not None
    if call.fds:
        raise errors.no_support(route.procedure)
    reachable(session.cluster, session.view)
    _submit(session, call, route, session.view, None, False, route.long)


def relay_newer(session: Session, call: Call) -> None:
    """A procedure newer than our facts: if its arguments begin with a known domain, its node may know it."""
    try:
        uuid = handle_uuid(call.payload)
        domain = session.cluster.by_uuid(uuid, session.view)
    except (XdrError, DomainNotFound):
        raise errors.unknown_procedure(call.procedure) from None
    if call.fds:
        raise errors.unknown_procedure(call.procedure)
    reachable(session.cluster, domain.node)
    _submit(session, call, None, domain.node, uuid, True, True)


def _submit(
    session: Session,
    call: Call,
    route: Route | None,
    node: str,
    uuid: bytes | None,
    mutating: bool,
    long: bool,
) -> None:
    done = Relayed(session, call, route, uuid, mutating)
    report = None
    if mutating and uuid is not None:
        session.cluster.begin(uuid)
        report = uuid
    try:
        session.world.nodes.submit(
            node,
            call.program,
            call.procedure,
            call.payload,
            done,
            readonly=session.readonly,
            long=long,
            report=report,
            deadline=session.front.long_deadline if long else session.front.deadline,
        )
    except ClusterError as error:
        # Refused at once: `done` has not been called, and will not be.
        done(error)


async def any_node(session: Session, call: Call, route: Route) -> bytes:
    """Ask one node after another until one can: what names a place on a host, or any host can compute."""
    cluster = session.cluster
    nodes = [node.name for node in cluster.cells() if node.usable]
    if not nodes:
        raise NodeUnreachable("no node of the cluster can be reached")
    first: ClusterError | None = None
    for node in nodes:
        try:
            answer = await session.world.nodes.call(
                node,
                call.program,
                call.procedure,
                call.payload,
                readonly=session.readonly,
                long=route.long,
                deadline=session.front.deadline,
            )
        except ClusterError as error:
            first = first or error
            continue
        if answer.ok:
            return session.translator.ret(route, answer.payload)
        first = first or NodeError(answer.payload)
    assert first is not None
    raise first
