"""Pinning and NUMA sets in the cluster's numbers: a CPU or cell says where a domain runs, and moves it there.

Calls get the cluster's numbers and tell the node its own; which whole nodes were named is kept in the domain's
metadata, where placement reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from clusterhost.model.cellmap import NONE, CellMap, Numbers, Place, Wish, format_set, own_cells, own_cpus
from clusterhost.model.domain import Domain
from clusterhost.model.errors import ClusterError, InvalidArgument
from clusterhost.model.pinning import with_bound
from clusterhost.model.pinxml import (
    NAMESPACE,
    PREFERRED,
    Document,
    bare_element,
    metadata_element,
    read,
    rewritten,
)
from clusterhost.service.context import Context
from clusterhost.service.live import LiveMover
from clusterhost.service.ports import Answer, Caller
from clusterhost.service.virt import bare_handle
from compat.libvirt import messages
from compat.libvirt.schema import Procedure

LIVE, CONFIG = 1, 2
"""VIR_DOMAIN_AFFECT_LIVE, VIR_DOMAIN_AFFECT_CONFIG"""
XML_INACTIVE = 2
"""VIR_DOMAIN_XML_INACTIVE"""
METADATA_ELEMENT = 2
"""VIR_DOMAIN_METADATA_ELEMENT"""
PREFIX = "clusterhost"

log = structlog.get_logger("clusterhost.pinning")


@dataclass(frozen=True, slots=True)
class PinCall:
    """A call that sets one place.  key: as in model.pinxml; numbers: the cluster's; raw: the call as it came;
    to_node: its arguments with a node's numbers and these flags; mode: of memory, if it is set as well."""

    uuid: bytes
    key: str
    cpus: bool
    numbers: Numbers
    flags: int
    procedure: Procedure
    raw: bytes
    to_node: Callable[[Numbers, int], bytes]
    mode: str | None = None


@dataclass(slots=True)
class _Plan:
    """What will be done: the documents that are changed, and the cells that the domain must be on while it runs.
    bound: by flag, what shall bind it; noted: what its running metadata says; settled: its node needs not be told
    how it shall run."""

    domain: Domain
    place: Place
    wish: Wish
    live: Document | None = None
    config: Document | None = None
    wanted: Numbers | None = None
    bound: dict[int, dict[str, Numbers]] = field(default_factory=dict)
    noted: dict[str, Numbers] = field(default_factory=dict)
    settled: bool = False

    @property
    def flags(self) -> int:
        """Of the call."""
        return (LIVE if self.live is not None else 0) | (CONFIG if self.config is not None else 0)

    @property
    def moves(self) -> bool:
        """It runs where it may not be."""
        return self.live is not None and self.wanted is not None and self.place.cell not in self.wanted


class Pinning:
    """Use cases; holds no state."""

    def __init__(self, context: Context, live: LiveMover) -> None:
        self._context = context
        self._live = live

    async def document(self, domain: Domain, *, config: bool) -> Document:
        """What its node says of it now: the definition, or what runs.  NodeError."""
        args = messages.RemoteDomainGetXmlDescArgs(bare_handle(domain.uuid), XML_INACTIVE if config else 0)
        answer = await self._context.virt.ask(domain.node, "DOMAIN_GET_XML_DESC", args)
        text = messages.RemoteDomainGetXmlDescRet.from_bytes(answer.payload).xml
        data = text.encode("utf-8", "surrogateescape")
        return read(data) or Document(data)

    async def pin(self, caller: Caller, call: PinCall) -> Answer:
        """Set one place; a running domain goes to the nodes that were named.  InvalidArgument, NoPlacement."""
        return await self._context.tasks.finish(self._pin(caller, call), "pin")

    async def _pin(self, caller: Caller, call: PinCall) -> Answer:
        context = self._context
        async with context.locks.hold(call.uuid):
            domain = context.cluster.by_uuid(call.uuid, caller.view)
            context.reachable(domain.node)
            cells = context.cell_map()
            place = cells.node(domain.node)
            flags = call.flags or (LIVE if domain.active else CONFIG)
            off = flags & LIVE and not domain.active
            if place is None or flags & ~(LIVE | CONFIG) or off or (flags & CONFIG and not domain.persistent):
                return await self._relay(domain, call, call.raw)
            wish = (cells.wish_of_cpus if call.cpus else cells.wish_of_cells)(call.numbers)
            if wish.empty and call.cpus:
                return await self._relay(domain, call, call.to_node(own_cpus(wish, place), flags))
            plan = _Plan(domain, place, wish)
            if flags & LIVE:
                plan.live = await self.document(domain, config=False)
                plan.noted = plan.live.bound
            if flags & CONFIG:
                plan.config = await self.document(domain, config=True)
            self._decide(call, plan, cells)
            plan.settled = _has_all(call, plan)
            return await self._carry_out(caller, call, plan, cells)

    # -- deciding

    def _decide(self, call: PinCall, plan: _Plan, cells: CellMap) -> None:
        for flag, document in ((LIVE, plan.live), (CONFIG, plan.config)):
            if document is None:
                continue
            named = plan.wish.cells if plan.wish.within is None else None
            bound = with_bound(document.bound, call.key, named)
            allowed = _allowed(call, bound, document, cells)
            if plan.wish.within is not None:
                _refuse_unless(plan.wish.within, allowed, bound, cells)
                allowed = frozenset({plan.wish.within})
            plan.bound[flag] = bound
            if flag == LIVE:
                _refuse_unknown(allowed, cells)
                plan.wanted = allowed

    # -- doing

    async def _carry_out(self, caller: Caller, call: PinCall, plan: _Plan, cells: CellMap) -> Answer:
        if plan.moves:
            refused = await self._move(caller, call, plan, cells)
            if refused is not None:
                return refused
        elsewhere = self._elsewhere(plan, cells)
        base = (cells.cell(elsewhere) if plan.live is None else None) or plan.place
        numbers = (own_cpus if call.cpus else own_cells)(plan.wish, base)
        flags = plan.flags & ~LIVE if plan.settled else plan.flags
        answer = Answer(True, b"")
        if flags:
            answer = await self._relay(plan.domain, call, call.to_node(numbers, flags))
        if answer.ok:
            if plan.live is not None and plan.bound[LIVE] != plan.noted:
                await self._note(plan, LIVE, plan.live, plan.bound[LIVE], None)
            await self._note_definition(plan, elsewhere)
        return answer

    async def _note_definition(self, plan: _Plan, elsewhere: int | None) -> None:
        """The store has it, too, before the next start looks there."""
        config, context, domain = plan.config, self._context, plan.domain
        if config is None:
            return
        if (plan.bound[CONFIG], elsewhere) != (config.bound, config.numbers_of):
            await self._note(plan, CONFIG, config, plan.bound[CONFIG], elsewhere)
        xml = await context.virt.inactive_xml(domain.node, domain.uuid)
        context.inventory.on_definition(domain.node, domain.uuid, xml)

    def _elsewhere(self, plan: _Plan, cells: CellMap) -> int | None:
        """The cell whose numbers the definition has from now on, None: its holder's."""
        if plan.config is None:
            return None
        cell = plan.config.numbers_of if plan.wish.within is None else plan.wish.within
        return None if cell == plan.place.cell or cells.cell(cell) is None else cell

    async def _move(self, caller: Caller, call: PinCall, plan: _Plan, cells: CellMap) -> Answer | None:
        """To a node that was named; what its node refuses is refused before anything moves."""
        context, domain, live = self._context, plan.domain, plan.live
        assert live is not None
        if not plan.settled:
            everything = plan.place.own if call.cpus else plan.place.numa
            answer = await self._relay(domain, call, call.to_node(everything, LIVE))
            if not answer.ok:
                return answer
            plan.settled = (
                not call.cpus
            )  # a second one would be refused: the nodeset of a running domain is for good
        try:
            if plan.bound[LIVE] != plan.noted:
                # While it is bound to where it is, it may not go elsewhere.
                await self._note(plan, LIVE, live, plan.bound[LIVE], None)
                plan.noted = plan.bound[LIVE]
            names = [place.node for place in cells.places if place.cell in (plan.wanted or NONE)]
            xml = rewritten(live, {}, metadata_element(live, plan.bound[LIVE], None))
            choice = context.placing.start_for(
                domain.uuid, xml.decode("utf-8", "surrogateescape"), only=names, avoid=[domain.node]
            )
            await self._live.move(domain.uuid, choice.node, caller.who, lambda *_: None)
        except ClusterError:
            await self._back(call, plan, live)
            raise
        plan.domain = context.cluster.by_uuid(domain.uuid)
        plan.place = cells.node(plan.domain.node) or plan.place
        return None

    async def _back(self, call: PinCall, plan: _Plan, live: Document) -> None:
        """It stays where it was, as it was."""
        try:
            if plan.noted != live.bound:
                await self._note(plan, LIVE, live, live.bound, None)
            before = live.pins.get(call.key)
            if before is not None and before.numbers:
                await self._relay(plan.domain, call, call.to_node(before.numbers, LIVE))
        except ClusterError as error:
            log.warning("a pinning was not put back", domain=plan.domain.name, reason=str(error))

    async def _relay(self, domain: Domain, call: PinCall, payload: bytes) -> Answer:
        context, procedure = self._context, call.procedure
        context.cluster.begin(domain.uuid)
        try:
            return await context.nodes.call(
                domain.node, procedure.program_id, procedure.number, payload, report=domain.uuid
            )
        finally:
            context.cluster.end(domain.uuid)

    async def _note(
        self, plan: _Plan, flag: int, document: Document, bound: dict[str, Numbers], elsewhere: int | None
    ) -> None:
        """Write down what binds it."""
        element = bare_element(document, bound, elsewhere)
        args = messages.RemoteDomainSetMetadataArgs(
            dom=bare_handle(plan.domain.uuid),
            type=METADATA_ELEMENT,
            metadata=element or None,
            key=PREFIX if element else None,
            uri=NAMESPACE,
            flags=flag,
        )
        await self._context.virt.ask(plan.domain.node, "DOMAIN_SET_METADATA", args, report=plan.domain.uuid)


def _refuse_unknown(allowed: Numbers | None, cells: CellMap) -> None:
    """A definition may name what will be there one day, a running domain cannot go there."""
    if allowed is not None and not allowed & cells.cells:
        raise InvalidArgument(
            f"NUMA node {format_set(allowed)} is unavailable, there are {format_set(cells.cells)}"
        )


def _has_all(call: PinCall, plan: _Plan) -> bool:
    """It has all memory of its node already, in that mode: libvirt would refuse to say so again while it runs."""
    pin = plan.live.pins.get(call.key) if plan.live is not None and not call.cpus else None
    if pin is None or call.mode not in (None, pin.mode):
        return False
    return plan.place.numa <= (pin.numbers or NONE)


def _allowed(call: PinCall, bound: dict[str, Numbers], document: Document, cells: CellMap) -> Numbers | None:
    """Cells that satisfy all that binds it, None: any.  InvalidArgument when there is none left."""
    soft = {key for key, pin in document.pins.items() if pin.soft}
    if call.mode is not None:
        soft = soft | {call.key} if call.mode == PREFERRED else soft - {call.key}
    there = {*document.pins, call.key}
    hard = {key: found for key, found in bound.items() if key in there and key not in soft}
    if not hard:
        return None
    allowed = frozenset.intersection(*hard.values())
    if not allowed:
        raise InvalidArgument(f"no node satisfies all that binds the domain: {_told(hard, cells)}")
    return allowed


def _refuse_unless(cell: int, allowed: Numbers | None, bound: dict[str, Numbers], cells: CellMap) -> None:
    if allowed is not None and cell not in allowed:
        where = cells.names(frozenset({cell}))
        raise InvalidArgument(f"the CPUs are those of {where}, the domain is bound: {_told(bound, cells)}")


def _told(bound: dict[str, Numbers], cells: CellMap) -> str:
    return "; ".join(f"{key}: {cells.names(found)}" for key, found in sorted(bound.items()))
