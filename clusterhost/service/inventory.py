"""What nodes tell, merged into the live model (control's HubHandler).  Synchronous: it never waits for
anything.

Each node's last word about each domain is kept; one of the nodes speaks for the domain (owner.py), and its
report is what clients see.  What needs calls to nodes is left to watchers (reconcile.py, migration.py,
nodes.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import structlog

from clusterhost.control import messages
from clusterhost.control.messages import DomainReport
from clusterhost.model.cluster import Cluster, format_uuid
from clusterhost.model.domain import Domain
from clusterhost.model.node import Admin, Host, Link, Node
from clusterhost.model.states import (
    EV_STARTED,
    EV_STOPPED,
    EV_UNDEFINED,
    SHUTOFF_MIGRATED,
    STOPPED_CRASHED,
    STOPPED_MIGRATED,
    after,
    starts_run,
)
from clusterhost.service import events
from clusterhost.service.convert import domain_of, figures_of, host_of, merged, row_of
from clusterhost.service.events import EventBus
from clusterhost.service.ledger import Ledger
from clusterhost.service.moving import Moves, shown
from clusterhost.service.owner import choose_owner, proven_stale
from clusterhost.service.watcher import Watcher
from clusterhost.store.rows import DropDomain, NodeRow, PutDomain, PutNode

SETTLING = 20.0
"""Seconds after our own start during which a domain that its node does not have may still turn up
elsewhere."""

log = structlog.get_logger("clusterhost.inventory")


class Follower(Protocol):
    """Wants to know what becomes of domains.  Called on the loop; must not block."""

    def domain_changed(self, before: Domain | None, now: Domain | None) -> None: ...

    def defined(self, uuid: bytes, xml: str) -> None: ...


class Inventory:
    """The one writer of node and domain facts in the model."""

    def __init__(
        self,
        cluster: Cluster,
        ledger: Ledger,
        moves: Moves,
        bus: EventBus,
        clock: Callable[[], float],
        epoch: int,
    ) -> None:
        self.cluster = cluster
        self.ledger = ledger
        self.moves = moves
        self.bus = bus
        self.clock = clock
        self.epoch = epoch
        self.seen: dict[bytes, dict[str, DomainReport]] = {}
        self.clashes: dict[tuple[str, bytes], str] = {}
        self.watchers: list[Watcher] = []
        self.followers: list[Follower] = []
        self._rebooted: dict[str, str] = {}
        self._spoken: set[str] = set()
        self._namesakes: dict[str, set[bytes]] = {}
        self._started = clock()

    def load(self) -> None:
        """Show what the store knows until nodes speak."""
        for row in sorted(self.ledger.nodes.values(), key=lambda row: row.cell):
            self.add_node(row)
        for saved in self.ledger.domains.values():
            self._put(domain_of(saved))

    def add_node(self, row: NodeRow) -> None:
        """A node that is allowed to connect."""
        underlay, mtu = self.ledger.underlay(row.name), self.ledger.underlay_mtu(row.name)
        host = Host(migration_address=row.migration_address, underlay=underlay, underlay_mtu=mtu)
        node = Node(row.name, row.cell, admin=Admin(row.admin), since=self.clock(), host=host)
        self.cluster.put_node(node)

    # -- HubHandler: nodes

    def on_hello(self, node: str, hello: messages.Hello) -> messages.Welcome:
        """Let a known node in; tell it what must not run there any more."""
        row = self.ledger.nodes.get(node)
        refused = ""
        if row is None:
            refused = f"no node named '{node}' in this cluster"
        elif not hello.lowest <= messages.PROTOCOL <= hello.highest:
            refused = _protocol_mismatch(hello)
        elif hello.epoch_seen > self.epoch:
            refused = f"the agent has seen epoch {hello.epoch_seen}, this front end has only {self.epoch}"
        if refused or row is None:
            log.warning("agent refused", node=node, reason=refused)
            return messages.Welcome(protocol=messages.PROTOCOL, epoch=self.epoch, refused=refused)
        if row.boot_id not in ("", hello.boot_id):
            self._rebooted[node] = hello.boot_id
            self._forget_runs(node)
        elif row.boot_id != hello.boot_id or row.incarnation != hello.incarnation:
            self.ledger.note(PutNode(replace(row, boot_id=hello.boot_id, incarnation=hello.incarnation)))
        return messages.Welcome(protocol=messages.PROTOCOL, epoch=self.epoch, stale=self._stale_at(node))

    def on_snapshot(self, node: str, snapshot: messages.Snapshot) -> None:
        """Everything that a node has."""
        old = self.cluster.node(node)
        link = Link.UP if snapshot.virt_up else Link.VIRT_DOWN
        host = host_of(snapshot.facts, self.ledger.nodes[node].migration_address)
        self._put_node(
            replace(old, host=old.host if old.host == host else host, figures=figures_of(snapshot.stats)),
            link,
            "",
        )
        if not snapshot.virt_up:
            return
        first = node not in self._spoken
        self._spoken.add(node)
        present = set()
        for report in snapshot.domains:
            present.add(report.uuid)
            self._take(node, report, announce=not first)
        for uuid in [uuid for uuid, copies in self.seen.items() if node in copies and uuid not in present]:
            self._lose(node, uuid)
        self.look_for_missing()
        rebooted = node in self._rebooted
        for watcher in self.watchers:
            watcher.node_up(node, rebooted)

    def boot_handled(self, node: str) -> None:
        """What follows a boot (autostart) is done; do not do it again."""
        boot_id = self._rebooted.pop(node, None)
        row = self.ledger.nodes.get(node)
        if boot_id is not None and row is not None:
            self.ledger.note(PutNode(replace(row, boot_id=boot_id)))

    def on_beat(self, node: str, beat: messages.Beat) -> None:
        """Figures of the last second; libvirtd answers or does not."""
        old = self.cluster.node(node)
        if old.link is Link.VIRT_DOWN and not beat.virt_up and beat.virt_reason != old.reason:
            self.cluster.put_node(replace(old, reason=beat.virt_reason))
        if old.link is Link.LOST or node not in self._spoken:
            return  # not before its snapshot
        link = Link.UP if beat.virt_up else Link.VIRT_DOWN
        was_up = old.usable
        self._put_node(replace(old, figures=figures_of(beat.stats)), link, beat.virt_reason)
        if was_up and link is not Link.UP:
            self._tell_down(node, beat.virt_reason or "its libvirtd does not answer")

    def on_lost(self, node: str, reason: str) -> None:
        """Nothing is known of its domains from now on; they stay listed."""
        if node not in self.cluster.nodes:
            return
        self._put_node(self.cluster.nodes[node], Link.LOST, reason)
        self._tell_down(node, reason)

    def on_register(self, node: str, public_key: str) -> None:
        """Passed on to the watchers (nodes.py keeps the keys)."""
        for watcher in self.watchers:
            watcher.registered(node, public_key)

    def forget_node(self, node: str) -> None:
        """It was removed from the cluster; what only it had is forgotten with it."""
        self._spoken.discard(node)
        self.cluster.drop_node(node)
        for uuid in [uuid for uuid, copies in self.seen.items() if node in copies]:
            self._lose(node, uuid)
        for domain in list(self.cluster.domains(node)):
            self._drop(domain.uuid)

    # -- HubHandler: domains

    def on_report(self, node: str, report: DomainReport) -> None:
        """A domain as its node has it now."""
        self._take(node, report, announce=False)

    def on_gone(self, node: str, uuid: bytes) -> None:
        """The node has it no longer."""
        self._lose(node, uuid)

    def on_definition(self, node: str, uuid: bytes, xml: str) -> None:
        """A new inactive definition: the store's copy follows."""
        row = self.ledger.domains.get(uuid)
        if row is not None and row.node == node and row.xml != xml:
            self.ledger.note(PutDomain(replace(row, xml=xml)))
            for follower in self.followers:
                follower.defined(uuid, xml)

    def on_event(self, node: str, program: int, procedure: int, payload: bytes) -> None:
        """Show an event to clients if it is news about a domain, and let the model follow it."""
        kind = events.event_kind(program, procedure)
        if kind is None:
            return
        if events.is_lifecycle(program, procedure):
            self._lifecycle(node, payload)
            return
        event = events.translated(kind, payload, node, self.id_of, self.cluster.renamed)
        if event is None:
            return
        domain = self.cluster.get(event.uuid)
        if domain is not None and domain.node == node:
            self.bus.publish(event)

    def _lifecycle(self, node: str, payload: bytes) -> None:
        handle, event, detail = events.read_lifecycle(payload)
        uuid = handle.uuid
        domain = self.cluster.get(uuid)
        move = self.moves.get(uuid)
        if move is None and self._followed(domain, node, event, detail):
            return
        if not shown(move, domain.node if domain else None, node, event, detail):
            return
        if domain is None and event in (EV_STOPPED, EV_UNDEFINED):
            self._publish_last(node, payload)
            return
        if domain is None:
            domain = Domain(uuid=uuid, name=handle.name, node=node, persistent=not starts_run(event))
            self._put(domain)
        number = self.run_id(node, uuid, handle.id)
        self._after_event(uuid, event, detail)
        names = self.cluster.renamed
        rewritten = events.translated(events.LIFECYCLE, payload, node, lambda _uuid, _id: number, names)
        if rewritten is not None:
            self.bus.publish(rewritten)

    def _publish_last(self, node: str, payload: bytes) -> None:
        """It is gone from the model already (the reply came first): clients are still told."""
        names = self.cluster.renamed
        event = events.translated(events.LIFECYCLE, payload, node, lambda _uuid, _number: -1, names)
        if event is not None:
            self.bus.publish(event)

    def _after_event(self, uuid: bytes, event: int, detail: int) -> None:
        domain = self.cluster.by_uuid(uuid)
        changed = after(domain, event, detail)
        self.cluster.mark_stale(uuid)
        if changed is not None:
            self._put(changed)
        elif self.moves.get(uuid) is None and not self.ledger.pinned(uuid):
            self._drop(uuid)

    def _followed(self, domain: Domain | None, node: str, event: int, detail: int) -> bool:
        """Somebody moved it between our nodes behind our back: the run goes on, on the other node."""
        if domain is None or domain.node != node or (event, detail) != (EV_STOPPED, STOPPED_MIGRATED):
            return False
        copies = self.seen.get(domain.uuid, {})
        for other, report in sorted(copies.items()):
            if other != node and report.id != -1:
                self.hand_over(domain.uuid, other)
                return True
        return False

    def called(self, name: str) -> list[Domain]:
        """All domains of that name (more than one only after a clash)."""
        found = (self.cluster.get(uuid) for uuid in self._namesakes.get(name, ()))
        return [domain for domain in found if domain is not None]

    # -- runs and owners

    def id_of(self, uuid: bytes, number: int) -> int:
        """The cluster's id for a handle that carries a node's id."""
        domain = self.cluster.get(uuid)
        return -1 if number == -1 or domain is None else domain.id

    def run_id(self, node: str, uuid: bytes, number: int) -> int:
        """As `id_of`; a run seen for the first time gets the next id, and the model knows it at once."""
        domain = self.cluster.by_uuid(uuid)
        if number == -1:
            return -1
        move = self.moves.get(uuid)
        moved = move is not None and move.target == node
        if not domain.active or (domain.node == node and domain.node_id not in (-1, number) and not moved):
            self._put(domain.with_(id=self.ledger.ids.take(), node_id=number))
        return self.cluster.by_uuid(uuid).id

    def hand_over(self, uuid: bytes, node: str, generation: int | None = None) -> None:
        """From now on `node` speaks for the domain; a run goes on under its id."""
        domain = self.cluster.by_uuid(uuid)
        changed = domain.with_(node=node, generation=domain.generation if generation is None else generation)
        report = self.seen.get(uuid, {}).get(node)
        if report is not None:
            if report.id != -1 and domain.active:
                changed = changed.with_(node_id=report.id)
            self._put(changed)
            self.refresh(uuid)
        else:
            self._put(changed)
            self.cluster.mark_stale(uuid)

    def _take(self, node: str, report: DomainReport, *, announce: bool) -> None:
        self.seen.setdefault(report.uuid, {})[node] = report
        self.ledger.generations.at_least(report.generation + 1)
        before = self.cluster.get(report.uuid)
        self.refresh(report.uuid)
        now = self.cluster.get(report.uuid)
        if report.autostart and now is not None and now.node == node:
            for watcher in self.watchers:
                watcher.flagged(node, report.uuid)
        if announce and before is not None and now is not None and now.node == node:
            self._announce(before, now)

    def _announce(self, before: Domain, now: Domain) -> None:
        """A node came back and the run is not the one we knew: say so, as nobody else will."""
        if before.active and now.id != before.id:
            self.bus.publish(events.lifecycle(now.with_(id=-1), EV_STOPPED, STOPPED_CRASHED))
        if now.active and now.id != before.id:
            self.bus.publish(events.lifecycle(now, EV_STARTED, 0))

    def _lose(self, node: str, uuid: bytes) -> None:
        copies = self.seen.get(uuid)
        if copies is not None:
            copies.pop(node, None)
            if not copies:
                del self.seen[uuid]
        self.clashes.pop((node, uuid), None)
        if self.cluster.get(uuid) is not None:
            self.refresh(uuid)

    def look_for_missing(self) -> None:
        """Look again at domains of nodes that answer and do not have them: another one speaks for them, or they are
        forgotten (unless they may still turn up elsewhere)."""
        for domain in list(self.cluster.domains()):
            if domain.node in self._spoken and domain.node not in self.seen.get(domain.uuid, ()):
                self.refresh(domain.uuid)

    def refresh(self, uuid: bytes) -> None:
        """Choose who speaks for the domain and take over its word."""
        old = self.cluster.get(uuid)
        copies = self.seen.get(uuid, {})
        move = self.moves.get(uuid)
        pinned = move.owner if move is not None else None
        busy = old is not None and (pinned is not None or self.ledger.pinned(uuid))
        recorded = old.node if old is not None else None
        owner = choose_owner(
            recorded, self._candidates(old, copies), self._silent(), recorded if busy else pinned
        )
        report = copies.get(owner) if owner is not None else None
        if (
            move is not None
            and old is not None
            and report is not None
            and move.leaving(old.active, report.id)
        ):
            self.cluster.mark_stale(uuid)  # the run goes on at the target, or settling will say that it ended
        elif report is not None and owner is not None:
            self.clashes.pop((owner, uuid), None)
            self._put(merged(old, owner, report, self._number_of(old, owner, report)))
            self.cluster.mark_fresh((uuid,))
        elif owner is None and old is not None and not busy and not self._may_turn_up():
            self._drop(uuid)
        for node, copy in copies.items():
            if node != owner and not busy:
                self._stray(node, uuid, copy)

    def _candidates(self, old: Domain | None, copies: dict[str, DomainReport]) -> dict[str, bool]:
        """Nodes that may speak for the domain -> whether it is active there.  A copy that is proven older may
        not, unless the owner says itself that the domain went away (somebody moved it behind our back)."""
        if old is None:
            return {node: copy.id != -1 for node, copy in copies.items()}
        own = copies.get(old.node)
        left = own is None or (own.id == -1 and own.reason == SHUTOFF_MIGRATED)
        return {
            node: copy.id != -1
            for node, copy in copies.items()
            if node == old.node or left or not proven_stale(copy.generation, old.generation)
        }

    def amend(self, uuid: bytes, **changes: object) -> None:
        """What the cluster decides about a domain: autostart, generation."""
        self._put(self.cluster.by_uuid(uuid).with_(**changes))

    def _number_of(self, old: Domain | None, owner: str, report: DomainReport) -> int:
        if report.id == -1:
            return -1
        if old is not None and old.active and old.node == owner and old.node_id in (report.id, -1):
            return old.id
        return self.ledger.ids.take()

    def _stray(self, node: str, uuid: bytes, copy: DomainReport) -> None:
        if (node, uuid) not in self.clashes:
            owner = self.cluster.by_uuid(uuid).node
            text = f"'{copy.name}' ({format_uuid(uuid)}) is on node {node} too; node {owner} speaks for it"
            self.clashes[node, uuid] = text
            self.ledger.note(self.ledger.journal("clash", copy.name, f"node {node}", text))
            log.warning("clash", text=text)
        for watcher in self.watchers:
            watcher.stray(node, uuid)

    def _silent(self) -> set[str]:
        return {name for name, node in self.cluster.nodes.items() if not node.usable}

    def _may_turn_up(self) -> bool:
        return self.clock() - self._started < SETTLING and any(
            name not in self._spoken for name in self.cluster.nodes
        )

    def _stale_at(self, node: str) -> dict[str, int]:
        return {
            format_uuid(intent.uuid): intent.generation
            for intent in self.ledger.intents.values()
            if intent.kind == "drop" and intent.node == node and intent.generation
        }

    def _forget_runs(self, node: str) -> None:
        for domain in list(self.cluster.domains(node)):
            if domain.active:
                self._put(
                    domain.with_(node_id=0)
                )  # no run of the new boot has that id, so it will not be matched

    # -- into the model

    def _put_node(self, node: Node, link: Link, reason: str) -> None:
        if node.link is not link:
            node = replace(node, link=link, since=self.clock(), reason=reason)
            log.info("node", node=node.name, link=str(link), reason=reason)
        self.cluster.put_node(node)

    def _tell_down(self, node: str, reason: str) -> None:
        for watcher in self.watchers:
            watcher.node_down(node, reason)

    def _put(self, domain: Domain) -> None:
        old = self.cluster.get(domain.uuid)
        if old is not None and old.name != domain.name:
            self._free_name(old)
        self._namesakes.setdefault(domain.name, set()).add(domain.uuid)
        domain = domain.with_(known_as=self._known_as(domain))
        if domain != old:
            self.cluster.put(domain)
            self._record(domain)
            for follower in self.followers:
                follower.domain_changed(old, domain)

    def _known_as(self, domain: Domain) -> str:
        """Empty, or name@node while an older domain has the name."""
        for uuid in self._namesakes[domain.name]:
            other = self.cluster.get(uuid)
            if other is not None and uuid != domain.uuid and not other.known_as:
                return f"{domain.name}@{domain.node}"
        return ""

    def _free_name(self, domain: Domain) -> None:
        names = self._namesakes.get(domain.name, set())
        names.discard(domain.uuid)
        if not names:
            self._namesakes.pop(domain.name, None)
        if not domain.known_as and names:
            heir = self.cluster.get(min(names))
            if heir is not None:
                self.cluster.put(heir.with_(known_as=""))

    def _drop(self, uuid: bytes) -> None:
        domain = self.cluster.drop(uuid)
        self._free_name(domain)
        if uuid in self.ledger.domains:
            self.ledger.note(DropDomain(uuid))
        for follower in self.followers:
            follower.domain_changed(domain, None)

    def _record(self, domain: Domain) -> None:
        row = self.ledger.domains.get(domain.uuid)
        new = row_of(domain, row.xml if row is not None else "")
        if new != row:
            self.ledger.note(PutDomain(new))


def _protocol_mismatch(hello: messages.Hello) -> str:
    spoken = f"protocol {hello.lowest} to {hello.highest}"
    return f"the agent speaks {spoken}, this front end {messages.PROTOCOL}"
