"""Use cases about nodes: add, enable, disable, drain, remove; and the keys under which agents may connect."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Protocol

import structlog

from clusterhost.control import keys
from clusterhost.model.domain import Domain
from clusterhost.model.errors import (
    ClusterError,
    InvalidArgument,
    InvalidOperation,
    NodeNotFound,
    NoPlacement,
)
from clusterhost.model.node import Admin
from clusterhost.service.agents import Agents
from clusterhost.service.context import Context
from clusterhost.service.disks import Disks
from clusterhost.service.image_stock import Stock
from clusterhost.service.live import LiveMover
from clusterhost.service.moves import DefinitionMover
from clusterhost.service.named_files import NamedFiles
from clusterhost.service.placing import Choice
from clusterhost.service.ports import Progress
from clusterhost.service.watcher import Watcher
from clusterhost.store.rows import DropIntent, DropNode, NodeRow, PutNode, SetMeta

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MOVES_AT_ONCE = 2
"""Domains that leave a node at the same time when it is drained."""

_HINTS = {
    True: "; --copy-storage all copies its disks",
    False: "; copy them there by hand, or start it and move it with --copy-storage all",
}
"""Whether the domain runs -> what can be done about disks that only its node has."""

log = structlog.get_logger("clusterhost.nodes")


class Membership(Protocol):
    """Who may connect (control.hub.Hub)."""

    def set_keys(self, nodes: Mapping[str, str], joins: Mapping[str, str]) -> None: ...

    def disconnect(self, node: str) -> None: ...

    def refusals(self, node: str) -> list[str]:
        """Who was turned away that called itself `node` or had a key of it, the last ones, oldest first."""


class NodeAdmin(Watcher):
    """keeps the key of an agent that registers.

    departing: told of an empty node that is about to be removed, while it can still be asked; departed: afterwards."""

    def __init__(
        self,
        context: Context,
        mover: DefinitionMover,
        live: LiveMover,
        membership: Membership,
        agents: Agents,
        changed: Callable[[], None],
    ) -> None:
        self._context = context
        self._mover = mover
        self._live = live
        self._membership = membership
        self._agents = agents
        self._changed = changed
        self._disks = Disks(context)
        self.departing: list[Callable[[str], Awaitable[None]]] = []
        self.departed: list[Callable[[str], None]] = []

    def load(self) -> None:
        """Let known agents in; start those that run beside us."""
        for row in list(self._context.ledger.nodes.values()):
            if row.uri:
                self._start_agent(row, "" if row.public_key else self._new_token(row))
        self._give_keys()

    # -- use cases

    async def add(
        self, name: str, uri: str, migration_address: str, who: str, *, take_over: bool = False
    ) -> str:
        """A new node; returns the one-time token for its agent ("" when the agent runs beside us).

        take_over: networks of the cluster go before its own of the same names, which it gets back when it leaves.
        A node whose agent has never connected may be added again: the earlier token becomes void."""
        context, ledger = self._context, self._context.ledger
        if not NAME.fullmatch(name):
            raise InvalidArgument(f"'{name}' is no node name: letters, digits, '.', '_' and '-', at most 64")
        known = ledger.nodes.get(name)
        if known is not None and known.public_key:
            raise InvalidArgument(f"node {name} is in the cluster already")
        pair = keys.new_pair()
        cell = known.cell if known is not None else ledger.cell_for(name)
        row = NodeRow(
            name,
            cell,
            join_key=pair.public,
            uri=uri,
            migration_address=migration_address,
            map=known.map if known is not None else {},
        )
        line = ledger.journal("node", name, who, "added" + (f" with {uri}" if uri else ""))
        await ledger.commit(PutNode(row), SetMeta(f"take over {name}", "1" if take_over else ""), line)
        if known is None:
            context.inventory.add_node(row)
        self._give_keys()
        self._changed()
        token = keys.make_token(name, *self._told(), self._server_key(), pair.secret)
        if uri:
            self._start_agent(row, token)
            return ""
        return token

    async def set_admin(self, name: str, admin: Admin, who: str) -> None:
        """Enable or disable it."""
        ledger = self._context.ledger
        row = self._row(name)
        line = ledger.journal("node", name, who, str(admin))
        await ledger.commit(PutNode(replace(row, admin=str(admin))), line)
        self._context.cluster.put_node(replace(self._context.cluster.node(name), admin=admin))
        self._changed()

    async def drain(
        self, name: str, who: str, progress: Progress, *, copy_storage: str = ""
    ) -> dict[str, object]:
        """Move everything off: running domains live (copy_storage: with their disks), definitions as they are.
        InvalidOperation names what stayed."""
        context = self._context
        await self.set_admin(name, Admin.DRAINING, who)
        tried: set[bytes] = set()
        failed: dict[str, str] = {}
        done = 0
        slots = asyncio.Semaphore(MOVES_AT_ONCE)

        async def one(domain: Domain) -> None:
            nonlocal done
            async with slots:
                try:
                    target = await self.move_domain(
                        domain.uuid,
                        "",
                        who,
                        lambda *told: progress(done, len(tried), told[2]),
                        copy_storage=copy_storage,
                        leave=True,
                    )
                except ClusterError as error:
                    failed[domain.name] = str(error)
                    return
                done += 1
                progress(done, len(tried), f"{domain.name} is on {target}")

        # What was being defined or started there when the node was closed turns up while the rest leaves.
        while todo := [domain for domain in context.cluster.domains(name) if domain.uuid not in tried]:
            tried |= {domain.uuid for domain in todo}
            progress(done, len(tried), f"{len(todo)} {'domain' if len(todo) == 1 else 'domains'} to move")
            await asyncio.gather(*(one(domain) for domain in todo))
        if failed:
            texts = "; ".join(f"{domain}: {reason}" for domain, reason in sorted(failed.items()))
            raise InvalidOperation(f"{len(failed)} of {len(tried)} domains stay on node {name}: {texts}")
        await self.set_admin(name, Admin.DISABLED, who)
        return {"node": name, "moved": done}

    async def remove(self, name: str, who: str, *, force: bool = False) -> None:
        """Take it out of the cluster; it must be empty.  force: domains on it are forgotten and left to the
        node's own libvirtd, with their autostart."""
        context, ledger = self._context, self._context.ledger
        self._row(name)
        left = list(context.cluster.domains(name))
        if left and not force:
            names = ", ".join(domain.name for domain in left[:5])
            raise InvalidOperation(f"node {name} has {len(left)} domains ({names}): drain it first")
        context.leaving.add(name)
        try:
            await self._give_back(left)
            for tell in () if left else self.departing:
                await tell(name)
            orders = [DropIntent(intent.op) for intent in ledger.intents.values() if intent.node == name]
            line = ledger.journal("node", name, who, "removed")
            await ledger.commit(DropNode(name), ledger.cell_kept(name), *orders, line)
            self._give_keys()
            self._membership.disconnect(name)
            await self._agents.forget(name)
            context.inventory.forget_node(name)
        finally:
            context.leaving.discard(name)
        for told in self.departed:
            told(name)
        self._changed()

    async def _give_back(self, domains: list[Domain]) -> None:
        """Autostart was the cluster's; from now on the node's libvirtd sees to it again."""
        for domain in domains:
            if domain.autostart and self._context.cluster.node(domain.node).usable:
                try:
                    await self._context.virt.set_autostart(domain.node, domain.uuid, True)
                except ClusterError as error:
                    log.warning("autostart not given back", domain=domain.name, reason=str(error))

    def refusals(self, name: str) -> list[str]:
        """Agents of that node that were turned away, with time and reason; "" for keys of nobody."""
        return self._membership.refusals(name)

    async def move_domain(
        self,
        uuid: bytes,
        target: str,
        who: str,
        progress: Progress,
        *,
        live: bool = True,
        copy_storage: str = "",
        leave: bool = False,
    ) -> str:
        """Move one domain to `target` ("": where placement says); returns the node.  copy_storage: "all" or "inc",
        its disks too.  leave: it must go, whether it could run there or not."""
        context = self._context
        domain = context.cluster.by_uuid(uuid)
        if target:
            context.reachable(target)
            if domain.node == target:
                return target
        if domain.active and not live:
            raise InvalidOperation(f"domain '{domain.name}' is running: only a live move is possible")
        context.reachable(domain.node)
        xml = await (
            context.virt.live_xml(domain.node, uuid) if domain.active else context.definition(domain)
        )
        choice = await self._choose(domain, xml, target, copy_storage, leave=leave)
        if domain.active:
            async with self._disks.room(domain, xml, choice.node) if copy_storage else nullcontext():
                await self._live.move(uuid, choice.node, who, progress, copy_storage=copy_storage)
            return choice.node
        async with context.locks.hold(uuid):
            await context.images.bring(domain.name, xml, choice.node, domain.node, progress)
            await self._mover.move(context.cluster.by_uuid(uuid), choice.node, who, choice.why)
        progress(1, 1, f"the definition of {domain.name} is on {choice.node}")
        return choice.node

    async def _choose(self, domain: Domain, xml: str, target: str, copy: str, *, leave: bool) -> Choice:
        """Where it can go with its disks and files."""
        if not domain.active:
            return await self._choose_off(domain, xml, target, leave=leave)
        # Volumes of ours make way at the target when libvirt copies them.
        ours = (await self._context.images.stock(xml, domain.node)).ours if copy else ()
        unseen = await self._disks.unseen(domain, xml, ours)
        bound = {} if copy else await self._context.images.bound(xml, domain.node)
        closed = {**bound, **{node: why for node, disk in unseen.items() if (why := disk.why_not(copy))}}
        hint = "" if copy or not closed else _HINTS[True]
        placing, named = self._context.placing, NamedFiles(self._context)
        if target:
            _asked_for(target, closed, hint)
            return _asked_for(target, (await named.stock(domain, xml, [target], live=True)).closed, "")

        def decide(closed: Mapping[str, str], coming: Mapping[str, int]) -> Choice:
            return placing.start_for(domain.uuid, xml, avoid=[domain.node], closed=closed, coming=coming)

        try:
            return await named.choose(domain.uuid, xml, domain.node, Stock(closed=closed), decide, live=True)
        except NoPlacement as error:
            raise NoPlacement(f"{error}{hint}") from error

    async def _choose_off(self, domain: Domain, xml: str, target: str, *, leave: bool) -> Choice:
        placing, named, hint = self._context.placing, NamedFiles(self._context), ""
        if target:
            stock = await named.stock(domain, xml, [target])
            return _asked_for(target, stock.closed, _HINTS[False])

        def decide(closed: Mapping[str, str], coming: Mapping[str, int]) -> Choice:
            nonlocal hint
            hint = _HINTS[False] if closed else ""
            if leave:
                return placing.home_for(
                    domain.uuid,
                    xml,
                    None,
                    leave=domain.node,
                    closed=closed,
                    coming=coming,
                    freeing=stock.freeing,
                )
            return placing.start_for(
                domain.uuid,
                xml,
                avoid=[domain.node],
                closed=closed,
                coming=coming,
                freeing=stock.freeing,
            )

        stock = await self._context.images.stock(xml, domain.node)
        try:
            return await named.choose(domain.uuid, xml, domain.node, stock, decide)
        except NoPlacement as error:
            raise NoPlacement(f"{error}{hint}") from error

    # -- Watcher

    def node_up(self, node: str, rebooted: bool) -> None:
        """What the host looks like may have changed."""
        self._changed()

    def node_down(self, node: str, reason: str) -> None:
        """What the host looks like may have changed."""
        self._changed()

    def registered(self, node: str, public_key: str) -> None:
        """The one-time key is used up; from now on the agent has its own."""
        ledger = self._context.ledger
        row = ledger.nodes.get(node)
        if row is None:
            return
        line = ledger.journal("node", node, f"node {node}", "its agent has registered its key")
        ledger.note(PutNode(replace(row, public_key=public_key, join_key="")), line)
        ledger.hurry()
        self._give_keys()

    # -- within

    def _give_keys(self) -> None:
        rows = self._context.ledger.nodes.values()
        self._membership.set_keys(
            {row.name: row.public_key for row in rows if row.public_key},
            {row.join_key: row.name for row in rows if row.join_key},
        )

    def _row(self, name: str) -> NodeRow:
        row = self._context.ledger.nodes.get(name)
        if row is None:
            known = ", ".join(sorted(self._context.ledger.nodes)) or "none"
            raise NodeNotFound(f"no node named '{name}'; known: {known}")
        return row

    def _new_token(self, row: NodeRow) -> str:
        """For an agent beside us that has not registered before we ended: its token was kept by nobody."""
        pair = keys.new_pair()
        self._context.ledger.note(PutNode(replace(row, join_key=pair.public)))
        return keys.make_token(row.name, *self._addresses(), self._server_key(), pair.secret)

    def _start_agent(self, row: NodeRow, token: str) -> None:
        self._agents.start(row.name, row.uri, *self._addresses(), self._server_key(), token)

    def _addresses(self) -> tuple[str, str]:
        """Where agents dial: an address that listens everywhere is told as our host name."""
        control = self._context.settings.control
        host = socket.gethostname()
        return (_dialled(control.control, host), _dialled(control.bulk, host))

    def _told(self) -> tuple[str, str]:
        """The same for agents on nodes: DNS says where, when we tell it."""
        names = self._context.settings.names
        return (f"srv:{names.domain}", "") if names.hosts else self._addresses()

    def _server_key(self) -> str:
        return keys.load(self._context.settings.control.key_file).public


def _asked_for(target: str, closed: Mapping[str, str], hint: str) -> Choice:
    if target in closed:
        raise InvalidOperation(f"node {target} {closed[target]}{hint}")
    return Choice(target, "asked for")


def _dialled(endpoint: str, host: str) -> str:
    return re.sub(r"^tcp://(\*|0\.0\.0\.0|\[::\])(?=:)", f"tcp://{host}", endpoint)
