"""Ask placement with what the live model offers, and remember why.  Decides nothing itself."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from clusterhost.config import PlacementSection
from clusterhost.model import pinxml
from clusterhost.model.cluster import Cluster
from clusterhost.model.domain import Domain
from clusterhost.model.errors import InvalidXml, NoPlacement
from clusterhost.model.node import Host, Node
from clusterhost.service.describe import describe_silence, why_closed
from clusterhost.service.xml import has_files
from compat.xmldoc import XmlDocument, XmlError
from placement import Ask, NoMatch, Offer, Outcome, Policy, place, sentence
from placement.ask import BadRequirement, requirements
from placement.offer import Guests, Load, guests, offer

NO_FILES = "its agent does not run there, so it cannot bring the domain's NVRAM, TPM state or managed save"
NOWHERE: Mapping[str, str] = {}
NOTHING: Mapping[str, int] = {}
KEPT = 10_000
"""Explanations that are remembered."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A node and why; what the domain takes there (KiB, vCPUs) while nobody has reported it yet."""

    node: str
    why: str = ""
    memory_kib: int = 0
    vcpus: int = 0


@dataclass(slots=True)
class _Tally:
    """A Load that is being counted: every start looks at every domain of the cluster."""

    granted_kib: int = 0
    vcpus: int = 0
    running: int = 0
    homes: int = 0

    def run(self, memory_kib: int, vcpus: int) -> None:
        """One more runs."""
        self.granted_kib += memory_kib
        self.vcpus += vcpus
        self.running += 1

    def load(self) -> Load:
        """The sum."""
        return Load(granted_kib=self.granted_kib, vcpus=self.vcpus, running=self.running, homes=self.homes)


class Placing:
    """Placement over the live model."""

    def __init__(self, settings: PlacementSection, cluster: Cluster) -> None:
        self._cluster = cluster
        self._policy = Policy(
            name=settings.policy,
            cpu_overcommit=settings.cpu_overcommit,
            memory_overcommit=settings.memory_overcommit,
            reserve_kib=settings.node_memory_reserve_mib * 1024,
        )
        self._expected: dict[bytes, Choice] = {}
        self._guests: dict[str, tuple[Host, Guests]] = {}
        self._outcomes: OrderedDict[bytes, Outcome] = OrderedDict()
        self.lacking: Callable[[str], Mapping[str, str]] = lambda xml: NOWHERE
        """What a definition needs that nodes lack: node -> why it cannot run there."""

    def home_for(
        self,
        uuid: bytes,
        xml: str,
        view: str | None,
        *,
        leave: str | None = None,
        closed: Mapping[str, str] = NOWHERE,
        coming: Mapping[str, int] = NOTHING,
        freeing: Mapping[str, int] = NOTHING,
    ) -> Choice:
        """A home for a new definition, or for one that must leave a node: capacity is no obstacle, it may
        never run.  closed: nodes where it cannot be, and why (a new one is taken there all the same when no other
        will do); coming, freeing: see Offer.  NoPlacement."""
        if view is not None:
            return Choice(view, "the client asked for this node")
        try:
            ask = self._ask(xml)
        except InvalidXml:
            return Choice(self.any_node(), "its libvirtd shall say what is wrong with the XML")
        offers = _without(self.lacking(xml), _lacking(coming, freeing, self.offers()))
        if leave is not None:
            ask = replace(ask, avoid=frozenset([leave]))
            offers = self._with_files(uuid, xml, leave, offers)
        outcome = self._home(ask, _without(closed, offers))
        if isinstance(outcome, NoMatch) and leave is None and closed:
            outcome = self._home(ask, offers)
        if isinstance(outcome, NoMatch) and leave is not None:
            raise NoPlacement(sentence(ask.name, outcome))
        if isinstance(outcome, NoMatch):
            # Nobody can run it: a libvirtd refuses it in libvirt's own words, or keeps it as a definition.
            return Choice(self.any_node(), sentence(ask.name, outcome))
        self._remember(uuid, outcome)
        return Choice(outcome.node, sentence(ask.name, outcome))

    def _home(self, ask: Ask, offers: list[Offer]) -> Outcome:
        outcome = place(ask, offers, self._policy)
        if isinstance(outcome, NoMatch):
            outcome = place(replace(ask, memory_kib=0, vcpus=0), offers, self._policy)
        return outcome

    def start_for(
        self,
        uuid: bytes,
        xml: str,
        *,
        home: str | None = None,
        only: str | Collection[str] | None = None,
        avoid: Collection[str] = (),
        closed: Mapping[str, str] = NOWHERE,
        coming: Mapping[str, int] = NOTHING,
        freeing: Mapping[str, int] = NOTHING,
    ) -> Choice:
        """A node to run it on; NoPlacement holds the reason of each node.  closed: nodes where it cannot run, and
        why; coming, freeing: see Offer."""
        wanted = None if only is None else frozenset([only] if isinstance(only, str) else only)
        ask = replace(self._ask(xml), home=home, only=wanted, avoid=frozenset(avoid))
        closed = {**self.lacking(xml), **closed}
        offers = _lacking(coming, freeing, self.offers(leave_out=uuid))
        offers = _without(closed, self._with_files(uuid, xml, home, offers))
        outcome = place(ask, offers, self._policy)
        self._remember(uuid, outcome)
        why = sentence(ask.name, outcome)
        if isinstance(outcome, NoMatch):
            outcome = self._despite_cpu(ask, offers)
        if isinstance(outcome, NoMatch):
            raise NoPlacement(why)
        return Choice(outcome.node, why, ask.memory_kib, ask.vcpus)

    def _despite_cpu(self, ask: Ask, offers: list[Offer]) -> Outcome:
        """When no node has the CPU, however empty it is, one shall say so in libvirt's own words."""
        if isinstance(place(replace(ask, memory_kib=0, vcpus=0), offers, self._policy), NoMatch):
            return place(replace(ask, cpu_model=None), offers, self._policy)
        return NoMatch(())

    def preview(
        self,
        domain: Domain,
        xml: str,
        closed: Mapping[str, str] = NOWHERE,
        coming: Mapping[str, int] = NOTHING,
        freeing: Mapping[str, int] = NOTHING,
    ) -> Outcome:
        """Where it would go now.  closed, coming, freeing: as in `start_for`."""
        ask = replace(self._ask(xml), home=domain.node)
        offers = _lacking(coming, freeing, self.offers(leave_out=domain.uuid))
        offers = self._with_files(domain.uuid, xml, domain.node, offers)
        return place(ask, _without({**self.lacking(xml), **closed}, offers), self._policy)

    def any_node(self) -> str:
        """Some node that answers; NoPlacement says why there is none."""
        cells = self._cluster.cells()
        for node in sorted(cells, key=lambda node: (not node.open, node.cell)):
            if node.usable:
                return node.name
        reasons = "; ".join(describe_silence(node) for node in cells) or "the cluster has no nodes"
        raise NoPlacement(f"no node can be asked: {reasons}")

    def last_outcome(self, domain: Domain) -> Outcome | None:
        """What was found when it was placed last; None when it has been brought elsewhere since, as
        somebody wished."""
        outcome = self._outcomes.get(domain.uuid)
        if isinstance(outcome, NoMatch):
            return None if domain.active else outcome
        return outcome if outcome is not None and outcome.node == domain.node else None

    def ranked(self, uuid: bytes) -> list[str]:
        """Nodes that could take it when it was placed last, the best first."""
        outcome = self._outcomes.get(uuid)
        return [reason.node for reason in outcome.reasons if reason.ok] if outcome is not None else []

    @contextmanager
    def expecting(self, uuid: bytes, choice: Choice) -> Iterator[None]:
        """Count it on its node while it is being started there."""
        self._expected[uuid] = choice
        try:
            yield
        finally:
            self._expected.pop(uuid, None)

    def expected(self) -> dict[bytes, Choice]:
        """Domains that are being started, by uuid."""
        return dict(self._expected)

    def offers(self, leave_out: bytes | None = None) -> list[Offer]:
        """What every node has left."""
        tallies = {name: _Tally() for name in self._cluster.nodes}
        expected = self._expected
        for domain in self._cluster.domains():
            tally = tallies.get(domain.node)
            if tally is None or domain.uuid == leave_out or domain.uuid in expected:
                continue
            if domain.active:
                tally.run(domain.max_memory, domain.vcpus)
            else:
                tally.homes += 1
        for uuid, choice in expected.items():
            if uuid != leave_out and choice.node in tallies:
                tallies[choice.node].run(choice.memory_kib, choice.vcpus)
        return [self._offer(node, tallies[node.name].load()) for node in self._cluster.cells()]

    def _offer(self, node: Node, load: Load) -> Offer:
        made = offer(
            node.name,
            self._guests_of(node),
            load,
            memory_kib=node.host.memory,
            cpus=node.host.cpus,
            reserve_kib=self._policy.reserve_kib,
            open=node.open,
            why_not=why_closed(node),
        )
        return replace(made, cell=node.cell)

    def _with_files(self, uuid: bytes, xml: str, home: str | None, offers: list[Offer]) -> list[Offer]:
        """A definition with files (NVRAM, TPM, managed save) can only go where an agent can write them."""
        domain = self._cluster.get(uuid)
        if home is None or domain is None or domain.active or not (domain.managed_save or has_files(xml)):
            return offers
        closed = {node.name for node in self._cluster.cells() if not node.host.has_files} - {home}
        return [
            replace(offer, open=False, why_not=NO_FILES) if offer.open and offer.node in closed else offer
            for offer in offers
        ]

    def _guests_of(self, node: Node) -> Guests:
        host, known = node.host, self._guests.get(node.name)
        if known is None or known[0] is not host:
            try:
                found = guests(host.capabilities, host.domain_capabilities) if host.capabilities else Guests()
            except ValueError:
                found = Guests()
            known = self._guests[node.name] = (host, found)
        return known[1]

    def _remember(self, uuid: bytes, outcome: Outcome) -> None:
        self._outcomes[uuid] = outcome
        self._outcomes.move_to_end(uuid)
        if len(self._outcomes) > KEPT:
            self._outcomes.popitem(last=False)

    @staticmethod
    def _ask(xml: str) -> Ask:
        try:
            ask = requirements(XmlDocument.parse(xml).root)
        except (XmlError, BadRequirement) as error:
            raise InvalidXml(str(error)) from error
        document = _pinned(xml)
        if document is None:
            return ask
        return replace(ask, cells=document.allowed(), near=document.wanted() or frozenset())

    def refuse_elsewhere(self, xml: str, node: str) -> None:
        """NoPlacement when the definition binds the domain to other nodes."""
        document = _pinned(xml)
        allowed = document.allowed() if document is not None else None
        if allowed is not None and self._cluster.node(node).cell not in allowed:
            names = [each.name for each in self._cluster.cells() if each.cell in allowed]
            raise NoPlacement(f"its definition binds it to {', '.join(names) or 'no node'}, not to {node}")


def _pinned(xml: str) -> pinxml.Document | None:
    data = xml.encode("utf-8", "surrogateescape")
    return None if pinxml.says_nothing(data) else pinxml.read(data)


def _without(closed: Mapping[str, str], offers: list[Offer]) -> list[Offer]:
    return [
        replace(offer, open=False, why_not=closed[offer.node])
        if offer.open and offer.node in closed
        else offer
        for offer in offers
    ]


def _lacking(coming: Mapping[str, int], freeing: Mapping[str, int], offers: list[Offer]) -> list[Offer]:
    return [
        replace(offer, coming=coming[offer.node], freeing=freeing.get(offer.node, 0))
        if offer.node in coming
        else offer
        for offer in offers
    ]
