"""The way from one guest to another, to its gateway, or out: part after part, and where it stops.  Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from netmgr import hops
from netmgr.hops import Found, Plug, Spot, State
from netmgr.seen import Sight
from netmgr.wanted import WantedNetwork


@dataclass(frozen=True, slots=True)
class Hop:
    """A part of the way.  node: "" where it concerns several."""

    node: str
    part: str
    found: str
    state: State

    @property
    def where(self) -> str:
        """In words."""
        return f"{self.part} at {self.node}" if self.node else self.part


@dataclass(frozen=True, slots=True)
class Beyond:
    """An address that no guest of the cluster has; gateway: it is the network's own."""

    address: str
    gateway: bool = False


@dataclass(frozen=True, slots=True)
class Way:
    """All hops.  whole: nothing stops it, and all of it is known; end: that in a sentence."""

    hops: tuple[Hop, ...]
    whole: bool
    end: str


def walk(source: Plug, target: Plug | Beyond, spots: Mapping[str, Spot], *, probe: bool = False) -> Way:
    """spots: of every node on the way.  probe: the target was asked for its address."""
    trail = _Trail(spots)
    source = _found(source, spots)
    target = _found(target, spots) if isinstance(target, Plug) else target
    if isinstance(target, Beyond):
        trail.beyond(source, target)
    elif source.network == target.network:
        trail.inside(source, target)
    else:
        trail.between(source, target)
    if isinstance(target, Plug) and probe and not trail.cut:
        trail.at(target.node, "guest", lambda spot: hops.replied(_seen(spot), target))
    return _ended(tuple(trail.hops))


def _found(plug: Plug, spots: Mapping[str, Spot]) -> Plug:
    return hops.with_tap(plug, spots[plug.node]) if plug.node in spots else plug


def _ended(found: tuple[Hop, ...]) -> Way:
    stops = [hop for state in (State.BROKEN, State.UNKNOWN) for hop in found if hop.state is state]
    if stops:
        verb = "it stops" if stops[0].state is State.BROKEN else "it is not known"
        return Way(found, False, f"{verb} at the {stops[0].where}: {stops[0].found}")
    odd = ", ".join(dict.fromkeys(hop.where for hop in found if hop.state is State.ODD))
    return Way(found, True, "the way is whole" + (f", but not all as it shall be: {odd}" if odd else ""))


class _Trail:
    """Hops as they are added; cut: there is no use in going on."""

    def __init__(self, spots: Mapping[str, Spot]) -> None:
        self.spots = spots
        self.hops: list[Hop] = []
        self.cut = False

    # -- ways

    def inside(self, source: Plug, target: Plug) -> None:
        """Two guests of one network."""
        self.leave(source)
        if (shall := self.shall(source)) is None:
            return
        pair = self.spots[source.node], self.spots[target.node]
        if apart := hops.isolated(source, target, pair, shall):
            self.add(source.node, "isolation", apart)
            self.cut = True
            return
        if shall.trunk is not None:
            self.by_trunk(source, target, shall)
            return
        self.beside(source.node, shall, routed=False)
        if source.node != target.node:
            self.across(source, target, source.network, routed=False)
            self.back(target.node, source, source.network, routed=False)
            self.beside(target.node, shall, routed=False)
        self.arrive(target)

    def by_trunk(self, source: Plug, target: Plug, shall: WantedNetwork) -> None:
        """Two guests of a network on VLANs."""
        assert shall.trunk is not None
        if source.node != target.node:
            there = self.spots[target.node].shall.get(target.network, shall)
            self.at(source.node, "trunk", lambda spot: hops.trunk(_seen(spot), shall))
            tags = ", ".join(map(str, shall.trunk.tags))
            self.add(
                "", "switch", (State.UNKNOWN, f"who carries VLAN {tags} between the nodes is not ours to ask")
            )
            self.at(target.node, "trunk", lambda spot: hops.trunk(_seen(spot), there))
            self.on_bridge(target.node, target.network)
        self.arrive(target)

    def between(self, source: Plug, target: Plug) -> None:
        """Guests of two networks: the source's node routes, and what answers takes the target's node."""
        self.leave(source)
        here, to = self.shall(source), self.shall(target, source.node)
        if here is None or to is None:
            return
        version = _common(source, target)
        if not version:
            self.add("", "addresses", (State.BROKEN, "they have no addresses of one IP version"))
            self.cut = True
            return
        self.at(source.node, "gateway", lambda spot: hops.gateway(_seen(spot), here, frozenset({version})))
        self.add(source.node, "isolation", hops.leaves(here, to.bridge))
        self.add(source.node, "isolation", hops.enters(to, here.bridge))
        if source.node != target.node and here.mode == "nat":
            text = f"behind NAT of {source.node} its answers end at the gateway on {target.node}"
            self.add(target.node, "isolation", (State.BROKEN, text))
        if any(hop.part == "isolation" and hop.state is State.BROKEN for hop in self.hops):
            self.cut = True
            return
        self.at(source.node, "forwarding", lambda spot: hops.forwards(_seen(spot), version))
        self.beside(source.node, here, routed=True)
        self.on_bridge(source.node, target.network)
        if source.node != target.node:
            self.across(source, target, target.network, routed=True)
            self.beside(target.node, to, routed=True)
        self.arrive(target)
        self.at(target.node, "gateway", lambda spot: hops.gateway(_seen(spot), to, frozenset({version})))
        if source.node != target.node:
            self.on_bridge(target.node, source.network)
            self.back(target.node, source, source.network, routed=True)

    def beyond(self, source: Plug, target: Beyond) -> None:
        """To the gateway, which is on the guest's own node, or out through it."""
        self.leave(source)
        shall = self.shall(source)
        if shall is None:
            return
        version = ip_address(target.address).version
        self.at(source.node, "gateway", lambda spot: hops.gateway(_seen(spot), shall, frozenset({version})))
        if target.gateway:
            self.beside(source.node, shall, routed=False)
            return
        if shall.mode == "none":
            self.add(source.node, "isolation", hops.leaves(shall, ""))
            self.cut = True
            return
        self.at(source.node, "forwarding", lambda spot: hops.forwards(_seen(spot), version))
        self.at(source.node, "route", lambda spot: _out(spot, shall, target.address))
        self.beside(source.node, shall, routed=True)

    # -- stretches

    def leave(self, plug: Plug) -> None:
        """From the guest onto its bridge."""
        self.add(plug.node, "interface", hops.interface(plug))
        if not plug.running:
            self.cut = True
            return
        self.at(plug.node, "tap", lambda spot: hops.tap(_seen(spot), plug))
        if plug.network in self.spots[plug.node].shall:
            self.on_bridge(plug.node, plug.network)
            self.plugged(plug)

    def arrive(self, plug: Plug) -> None:
        """From its bridge to the guest."""
        if plug.running:
            self.plugged(plug)
            self.at(plug.node, "tap", lambda spot: hops.tap(_seen(spot), plug))
        self.add(plug.node, "interface", hops.interface(plug))

    def plugged(self, plug: Plug) -> None:
        """Its link as a port."""
        shall = self.spots[plug.node].shall[plug.network]
        self.at(plug.node, "port", lambda spot: hops.port(_seen(spot), plug, shall))
        if found := hops.nwfilter(plug):
            self.add(plug.node, "filter", found)

    def on_bridge(self, node: str, network: str) -> None:
        """A network's bridge."""
        shall = self.spots[node].shall.get(network)
        if shall is None:
            self.add(node, "bridge", (State.BROKEN, "the node is not to have the network"))
        else:
            self.at(node, "bridge", lambda spot: hops.bridge(_seen(spot), shall))

    def across(self, source: Plug, target: Plug, network: str, *, routed: bool) -> None:
        """By a network's overlay to the target's node."""
        here, there = self.spots[source.node], self.spots[target.node]
        shall, at_target = here.shall[network], there.shall.get(network)
        place = at_target.local if at_target is not None else ""
        self.at(here.node, "overlay", lambda spot: hops.overlay(_seen(spot), shall))
        self.at(here.node, "entry", lambda spot: hops.entry(_seen(spot), shall, target.mac, place))
        self.at(
            here.node, "neighbour", lambda spot: hops.neighbour(_seen(spot), shall, target, routed=routed)
        )
        self.at(here.node, "underlay", lambda spot: hops.underlay(_seen(spot), shall, place))
        # Before the crossing, which needs it: what is missing is named, not what comes of that.
        self.on_bridge(there.node, network)
        if at_target is not None:
            self.at(there.node, "overlay", lambda spot: hops.overlay(_seen(spot), at_target))
            self.add("", "crossing", hops.crossing(here, there))

    def back(self, node: str, source: Plug, network: str, *, routed: bool) -> None:
        """What the target's node knows of the source."""
        here, shall = self.spots[source.node].shall[network], self.spots[node].shall.get(network)
        if shall is not None:
            self.at(node, "entry", lambda spot: hops.entry(_seen(spot), shall, source.mac, here.local))
            self.at(node, "neighbour", lambda spot: hops.neighbour(_seen(spot), shall, source, routed=routed))

    def beside(self, node: str, shall: WantedNetwork, *, routed: bool) -> None:
        """Rules on the way, ours and others'."""
        shall = self.spots[node].shall.get(shall.uuid, shall)
        self.at(node, "rules", lambda spot: hops.rules(_seen(spot), shall, routed=routed))
        self.at(node, "other rules", lambda spot: hops.strangers(_seen(spot), routed=routed))

    # -- hops

    def shall(self, plug: Plug, node: str = "") -> WantedNetwork | None:
        """What the node shall have of a guest's network; without it the way ends here."""
        if self.cut:
            return None
        node = node or plug.node
        found = self.spots[node].shall.get(plug.network)
        if found is None:
            text = f"{plug.name} is not active, or passed to {node} as it is: the rest is not known"
            self.add(node, "network", (State.UNKNOWN, text))
            self.cut = True
        return found

    def at(self, node: str, part: str, check: Callable[[Spot], Found | None]) -> None:
        """A hop that needs what a node sees; None from the check: there is nothing to be said."""
        spot = self.spots[node]
        if spot.sight is None or spot.sight.problem:
            why = spot.silent if spot.sight is None else spot.sight.problem
            found: Found | None = (State.UNKNOWN, why)
        else:
            found = check(spot)
        if found is not None:
            self.add(node, part, found)

    def add(self, node: str, part: str, found: Found) -> None:
        """A hop as it was found."""
        state, text = found
        self.hops.append(Hop(node, part, text, state))


def _seen(spot: Spot) -> Sight:
    assert spot.sight is not None
    return spot.sight


def _common(source: Plug, target: Plug) -> int:
    """An IP version in which both have an address, 0 for none."""
    both = [{ip_address(address).version for address in plug.addresses} for plug in (source, target)]
    return min(both[0] & both[1], default=0)


def _out(spot: Spot, shall: WantedNetwork, address: str) -> Found:
    way = _seen(spot).ways.get(address)
    if way is None or way.problem:
        return (
            State.BROKEN,
            f"no route to {address}: {way.problem if way is not None else 'it was not asked for'}",
        )
    state, text = hops.leaves(shall, way.device)
    by = f"{address} by {way.device}" + (f" and {way.gateway}" if way.gateway else "")
    if state is State.OK and shall.mode != "nat":
        return state, f"{by}; {text}; who answers needs a route to the network"
    return state, f"{by}; {text}"
