"""Keeps a node's part of every network as it was told: records it, makes it so, and looks after it.

What is wanted is on the disk before anything is done, so an interrupted change is finished by the next run.  Knows
neither the front end nor libvirt.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from msgspec import structs
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from netmgr import changes, dnsmasq, plan, steps, vlan
from netmgr.apply import filters, links, ports, vlans
from netmgr.apply.journal import Journal, Kept
from netmgr.apply.servers import Server, ServerFailed
from netmgr.apply.watch import Watch
from netmgr.changes import NetworkChange
from netmgr.wanted import GuestGone, Unfit, WantedGuest, WantedNetwork, check, check_guest, fitting_mtu

log = logging.getLogger(__name__)

HEAL_SECONDS = 5.0
_SETTLE_SECONDS = 0.2
"""After a change of the node, so that one who makes many is looked at once."""
_PATIENCE = 60.0
"""The longest wait before what failed is tried again, in seconds."""

_FAILURES = (
    plan.Refused, links.LinkMissing, filters.RulesRefused, ServerFailed, NetlinkError, OSError
)  # fmt: skip
PortsHook = Callable[[str], Awaitable[frozenset[str]]]
StepHook = Callable[[steps.Step], None]


class UnknownNetwork(Exception):
    """No network of this uuid was ever set here."""


class StaleOrder(Exception):
    """The order is older than one that was obeyed."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a network here: reason "" when it is as wanted.  did: how many steps it took."""

    uuid: str
    serial: int
    reason: str = ""
    did: int = 0

    @property
    def ok(self) -> bool:
        """It is as wanted."""
        return not self.reason


@dataclass(slots=True)
class _Care:
    """What we remember of a network between two looks.

    ports: links seen on the bridge, with their index; owed: those that it shall have again; asked: the hook was, since
    the bridge is there; rules: the kernel's generation of them, and what was found then; trunked: it has, or may have
    had, a bridge that others share."""

    kept: Kept
    trunked: bool = True
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    result: Result | None = None
    ports: dict[str, int] = field(default_factory=dict)
    owed: frozenset[str] = frozenset()
    asked: bool = False
    rules: tuple[int, tuple[str, str]] = (-1, ("", ""))
    config: str = ""
    calm: tuple[plan.Actual, plan.Place] | None = None
    failures: int = 0
    not_before: float = 0.0


async def _no_ports(uuid: str) -> frozenset[str]:
    return frozenset()


class Keeper:
    """state_dir is this node's alone; underlay is its address there.

    ports_of(uuid) tells which links (taps of guests) shall be ports of a network's bridge: asked when that was made
    anew, and once after our start.  told: called with every result that differs from the last.  after: after each
    step."""

    def __init__(
        self,
        state_dir: Path,
        underlay: str,
        *,
        ports_of: PortsHook = _no_ports,
        told: Callable[[Result], None] = lambda result: None,
        after: StepHook = lambda step: None,
    ) -> None:
        self._directory = state_dir
        self._underlay = underlay
        self._ports = ports_of
        self._told = told
        self._after = after
        self._journal = Journal(state_dir / "networks")
        self._servers: dict[str, Server] = {}
        kept = self._journal.load()
        self._alone = asyncio.Lock()
        self._care = {uuid: _Care(kept[uuid], ports=ports.read(self._noted(uuid))) for uuid in kept}

    # What is wanted

    @property
    def results(self) -> Mapping[str, Result]:
        """The last result of each network."""
        return {uuid: care.result for uuid, care in self._care.items() if care.result is not None}

    def wanted(self, uuid: str) -> WantedNetwork:
        """A network with all its guests, as it is known here.  UnknownNetwork."""
        return self._known(uuid).kept.whole

    @property
    def networks(self) -> tuple[str, ...]:
        """uuids of all networks, those to be removed left out."""
        return tuple(uuid for uuid, care in self._care.items() if not care.kept.removed)

    def leases(self, uuid: str) -> Mapping[str, dnsmasq.Lease]:
        """Leases that were given here, by address.  Reads a file."""
        return self._server(uuid).leases()

    async def set(self, wanted: WantedNetwork) -> Result:
        """Record a network and make it so.

        Unfit, StaleOrder: nothing was changed.  OSError: it could not be recorded, nothing was changed."""
        check(wanted)
        kept = Kept.of(wanted)
        care = self._care.get(wanted.uuid)
        fresh = care is None
        if care is None:
            care = self._care[wanted.uuid] = _Care(kept)
        async with care.lock:
            if not fresh and wanted.serial < care.kept.serial:
                raise StaleOrder(
                    f"serial {wanted.serial} of network {wanted.name} is older than {care.kept.serial}"
                )
            try:
                self._refuse_second(wanted)
                await asyncio.to_thread(self._journal.write, kept)
            except (Unfit, OSError):
                if fresh:
                    del self._care[wanted.uuid]
                raise
            care.kept, care.calm, care.trunked = kept, None, True
            return await self._settle(care)

    async def guest(self, uuid: str, change: WantedGuest | GuestGone) -> Result:
        """One guest came, changed, moved or went.

        UnknownNetwork, Unfit, StaleOrder, OSError (it cannot be recorded): nothing was changed."""
        if isinstance(change, WantedGuest):
            check_guest(change)
        care = self._known(uuid)
        async with care.lock:
            kept = care.kept
            if kept.removed:
                raise UnknownNetwork(f"network {uuid} is being removed from this node")
            if change.serial < kept.network.serial:
                raise StaleOrder(
                    f"serial {change.serial} of a guest is older than the network's {kept.network.serial}"
                )
            key = change.key
            old = kept.guests.get(key)
            if old is not None and change.serial < old.serial:
                raise StaleOrder(f"serial {change.serial} of guest {key} is older than {old.serial}")
            kept.change(change)
            try:
                await asyncio.to_thread(self._journal.append, kept, change)
            except OSError:
                kept.take_back(key, old)
                raise
            new = kept.guests.get(key)
            care.calm = None
            whole = kept.network.trunk is not None or _isolation(kept, old) != _isolation(kept, new)
            if whole or care.result is None or not care.result.ok:
                return await self._settle(care)
            return await self._change(care, kept.network, [(old, new)])

    async def change(self, change: NetworkChange) -> Result:
        """Part of a network is different.

        UnknownNetwork (also when it is not here as the change assumes), Unfit, OSError: nothing was changed."""
        for guest in change.guests:
            check_guest(guest)
        care = self._known(change.uuid)
        async with care.lock:
            before = care.kept
            if before.removed or before.version != change.base:
                raise UnknownNetwork(f"network {change.uuid} is not here as of {change.base}")
            kept = before.after(change)
            check(kept.network)
            await asyncio.to_thread(self._journal.append, kept, change)
            care.kept, care.calm = kept, None
            keys = dict.fromkeys(guest.key for guest in change.about)
            pairs = [(before.guests.get(key), kept.guests.get(key)) for key in keys]
            small = care.result is not None and care.result.ok and self._is_small(before, kept, pairs)
            return await (self._change(care, before.network, pairs) if small else self._settle(care))

    @staticmethod
    def _is_small(before: Kept, kept: Kept, pairs: list[changes.Pair]) -> bool:
        calm = kept.network.trunk is None and changes.same_config(before.network, kept.network)
        return calm and not any(_isolation(before, old) != _isolation(kept, new) for old, new in pairs)

    async def remove(self, uuid: str, serial: int | None = None) -> Result:
        """Leave no trace of a network; one that is not known is gone already.  StaleOrder: nothing was changed."""
        care = self._care.get(uuid)
        if care is None:
            return Result(uuid, 0)
        async with care.lock:
            if serial is not None and serial < care.kept.serial:
                raise StaleOrder(f"serial {serial} of a removal is older than {care.kept.serial}")
            if not care.kept.removed:
                await asyncio.to_thread(self._journal.mark_removed, uuid)
                care.kept.removed = True
            return await self._settle(care)

    # Looking after it

    async def heal(self) -> tuple[Result, ...]:
        """Compare every network with what is there, and make good what differs."""
        return await self._heal(tuple(self._care.values()))

    async def run(self) -> None:
        """For ever: look at the start, every few seconds, and after each change of links or rules."""
        loop = asyncio.get_running_loop()
        with contextlib.closing(Watch()) as watch:
            while True:
                now = loop.time()
                await self._heal(tuple(care for care in self._care.values() if care.not_before <= now))
                if await watch.wait(HEAL_SECONDS):
                    await asyncio.sleep(_SETTLE_SECONDS)

    async def _heal(self, all_of_them: tuple[_Care, ...]) -> tuple[Result, ...]:
        if not all_of_them:
            return ()
        try:
            seen = await asyncio.to_thread(links.look)
        except (OSError, NetlinkError) as error:
            log.error("this node's links cannot be read: %s", error)
            return ()
        results = []
        for care in all_of_them:
            if care.lock.locked():
                continue  # whoever holds it is about to make it right
            async with care.lock:
                if care.kept.network.uuid in self._care:
                    results.append(await self._settle(care, seen))
        return tuple(results)

    async def _settle(self, care: _Care, seen: links.Seen | None = None) -> Result:
        """Plan and perform.  `seen` may be a moment old: what it shows to be done is looked at again."""
        uuid, did, reason = care.kept.network.uuid, 0, ""
        try:
            async with self._alone if care.trunked else contextlib.nullcontext():
                todo = await self._plan(care, seen)
                if todo and seen is not None:
                    todo = await self._plan(care, None)
                await asyncio.to_thread(self._perform, care, todo)
            did, care.owed = len(todo), frozenset()
            care.trunked = care.kept.network.trunk is not None
            if care.kept.removed:
                self._noted(uuid).unlink(missing_ok=True)
                await asyncio.to_thread(self._journal.drop, uuid)
                self._care.pop(uuid, None)
                self._servers.pop(uuid, None)
        except _FAILURES as error:
            reason = _words(error)
        except Exception as error:
            # The edge of a node's care: what nobody thought of in one network must not end that of all others.
            log.exception("network %s", care.kept.network.name)
            reason = f"{type(error).__name__}: {error}"
        return self._note(care, Result(uuid, care.kept.serial, reason, did))

    async def _plan(self, care: _Care, seen: links.Seen | None) -> tuple[steps.Step, ...]:
        wanted = self._local(care.kept.network)
        if seen is None:
            seen = await asyncio.to_thread(links.look)
        actual = await asyncio.to_thread(self._actual, care, wanted, seen)
        unused = self._unused(seen) if care.trunked else ()
        if care.kept.removed:
            return (*plan.steps_away(wanted, actual), *unused)
        if wanted.trunk is not None:
            return (*unused, *await self._trunk_plan(care, actual, seen))
        place = plan.Place(
            mtu=links.vxlan_room(seen, wanted.local),
            directory=str(self._server(wanted.uuid).directory),
            ports=await self._ports_of(care, actual, seen),
        )
        care.config = dnsmasq.config(wanted, place.directory, fitting_mtu(wanted, place.mtu))
        if care.calm == (actual, place):
            return unused  # as at the last look, when nothing was to be done
        todo = plan.steps_to(wanted, care.kept.guests, actual, place)
        care.calm = None if todo else (actual, place)
        return (*unused, *todo)

    async def _trunk_plan(self, care: _Care, actual: plan.Actual, seen: links.Seen) -> tuple[steps.Step, ...]:
        """Of a network on VLANs of a device: whoever of those that share a bridge comes first makes it for all."""
        wanted = care.kept.network
        owed = await self._ports_of(care, actual, seen)
        wires = await asyncio.to_thread(vlans.look)
        before = vlan.leftovers(wanted, wires, actual)
        sharing = [
            (other.kept.network, other.kept.guests) for other in self._care.values() if not other.kept.removed
        ]
        trunk = vlan.trunk_of(wanted.bridge, sharing)
        if trunk is None:
            return (*before, *vlan.single_steps(wanted, wires, owed))
        return (*before, *vlan.trunk_steps(trunk, wires, owed))

    def _unused(self, seen: links.Seen) -> tuple[steps.Step, ...]:
        """Bridges that networks had in common, and none has any more."""
        networks = [care.kept.network for care in self._care.values() if not care.kept.removed]
        wanted = frozenset(found.bridge for found in networks if vlan.may_share(found, found))
        return vlan.unused(((link.name, link.alias) for link in seen.links), wanted)

    async def _ports_of(self, care: _Care, actual: plan.Actual, seen: links.Seen) -> frozenset[str]:
        """Links that lost their bridge with it, or are about to: those that we saw on it, and those that we are told
        of."""
        uuid = care.kept.network.uuid
        if actual.bridge is None:
            care.asked = False
        if not care.asked:
            care.owed |= {link.name for link in seen.links if care.ports.get(link.name) == link.index}
            care.owed |= await self._ports(uuid)
            care.asked = actual.bridge is not None
        found = links.guests_of(seen, actual, care.kept.network.mark)
        care.owed |= found.keys() - actual.ports
        if (found or actual.bridge is not None) and found != care.ports and care.owed <= found.keys():
            await asyncio.to_thread(ports.note, self._noted(uuid), found)
            care.ports = found
        return care.owed

    def _actual(self, care: _Care, wanted: WantedNetwork, seen: links.Seen) -> plan.Actual:
        server = self._server(wanted.uuid)
        generation = filters.generation()
        known, loaded = care.rules
        if known != generation or care.kept.removed:
            loaded = filters.loaded(self._memory(wanted.uuid))
            care.rules = generation, loaded
        running = server.pid() is not None
        return replace(
            links.actual(wanted, seen),
            rules=loaded[0],
            rules_of=loaded[1],
            tables=filters.tables(wanted.bridge) if care.kept.removed else frozenset(),
            running=running,
            server_config=server.config() if running else "",
            files=server.files(),
            leases={address: lease.owner for address, lease in server.leases().items()},
        )

    async def _change(self, care: _Care, before: WantedNetwork, pairs: list[changes.Pair]) -> Result:
        """Entries and files of a few guests; when they do not go in, the whole network is looked at."""
        uuid, network = care.kept.network.uuid, care.kept.network
        server = self._server(uuid)

        def do() -> int:
            leases = {address: lease.owner for address, lease in server.leases().items()}
            todo = changes.steps(before, network, pairs, leases, care.config, care.kept.guests)
            self._perform(care, todo)
            return len(todo)

        try:
            did = await asyncio.to_thread(do)
        except _FAILURES:
            return await self._settle(care)
        return self._note(care, Result(uuid, care.kept.serial, "", did))

    def _perform(self, care: _Care, todo: tuple[steps.Step, ...]) -> None:
        if not todo:
            return
        network = care.kept.network
        server, memory = self._server(network.uuid), self._memory(network.uuid)
        on_server: dict[type, Callable[..., None]] = {
            steps.WriteFile: lambda step: server.write(step.name, step.text),
            steps.DropFile: lambda step: server.drop(step.name),
            steps.StartServer: lambda step: server.start(step.config),
            steps.StopServer: lambda step: server.stop(),
            steps.ReloadServer: lambda step: server.reload(),
            steps.FreeLeases: lambda step: server.free(step.addresses),
            steps.Forget: lambda step: server.forget(),
            steps.LoadRules: lambda step: filters.load(step.script, network.bridge, memory),
            steps.DropRules: lambda step: filters.drop(step.script, memory),
        }
        with IPRoute() as route:
            for step in todo:
                if perform := on_server.get(type(step)):
                    perform(step)
                else:
                    links.perform(step, route)
                self._after(step)
        care.rules = -1, ("", "")

    # Small things

    def _note(self, care: _Care, result: Result) -> Result:
        if result.ok:
            care.failures, care.not_before = 0, 0.0
        else:
            care.failures += 1
            delay = min(HEAL_SECONDS * 2.0 ** (care.failures - 1), _PATIENCE)
            care.not_before = asyncio.get_running_loop().time() + delay
        last, care.result = care.result, result
        if last is None or (last.serial, last.reason) != (result.serial, result.reason):
            self._told(result)
        if result.did and last is not None and last.serial == result.serial:
            log.info("network %s: %d steps to make it good", care.kept.network.name, result.did)
        return result

    def _known(self, uuid: str) -> _Care:
        try:
            return self._care[uuid]
        except KeyError:
            raise UnknownNetwork(f"no network {uuid} was set on this node") from None

    def _refuse_second(self, wanted: WantedNetwork) -> None:
        for care in self._care.values():
            other = care.kept.network
            if other.uuid == wanted.uuid:
                continue
            if other.bridge == wanted.bridge and not vlan.may_share(other, wanted):
                raise Unfit(f"network {other.name} has bridge {wanted.bridge} already")
            if other.vni == wanted.vni:
                raise Unfit(f"network {other.name} has VNI {wanted.vni} already")

    def _local(self, network: WantedNetwork) -> WantedNetwork:
        return network if network.local else structs.replace(network, local=self._underlay)

    def _server(self, uuid: str) -> Server:
        server = self._servers.get(uuid)
        if server is None:
            server = self._servers[uuid] = Server(self._directory / "dnsmasq" / uuid)
        return server

    def _noted(self, uuid: str) -> Path:
        return self._directory / "networks" / f"{uuid}.ports"

    def _memory(self, uuid: str) -> Path:
        return self._directory / "networks" / f"{uuid}.rules"


def _isolation(kept: Kept, guest: WantedGuest | None) -> bool:
    return guest.isolated if guest is not None else kept.network.isolated


def _words(error: Exception) -> str:
    if isinstance(error, NetlinkError):
        return f"the kernel refused: {error.args[-1]}"
    return str(error) or type(error).__name__
