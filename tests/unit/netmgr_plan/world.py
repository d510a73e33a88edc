"""A node in memory that does what steps say, as the kernel and dnsmasq would."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from netmgr import plan, steps
from netmgr.plan import Actual, Link
from netmgr.wanted import WantedNetwork, temporary_name

DIRECTORY = "/state/dnsmasq/net"
PLACE = plan.Place(1450, DIRECTORY)


@dataclass
class World:
    """What is there: links by name, and the rest as Actual has it."""

    wanted: WantedNetwork
    links: dict[str, Link] = field(default_factory=dict)
    seen: Actual = field(default_factory=Actual)
    kernel: dict[str, str] = field(default_factory=dict)
    next_index: int = 1

    def actual(self) -> Actual:
        """As apply would read it."""
        wanted = self.wanted
        bridge, overlay = self.links.get(wanted.bridge), self.links.get(wanted.overlay)
        names = {temporary_name(wanted.uuid, what) for what in ("bridge", "overlay")}
        strays = tuple(
            link
            for link in self.links.values()
            if (link.alias == wanted.mark or link.name in names) and link not in (bridge, overlay)
        )
        index = bridge.index if bridge else -1
        going = {0, *(stray.index for stray in strays)}
        shall = plan.settings(wanted)
        missing = [name for name in (wanted.bridge, wanted.overlay) if name not in self.links]
        there = {path for path in shall if not any(f"/{name}/" in path for name in missing)}
        seen = self.seen
        if bridge is None:
            seen = replace(seen, addresses=frozenset(), routes=frozenset(), neighbours={})
        if overlay is None:
            seen = replace(seen, remote={}, bridged=frozenset())
        return replace(
            seen,
            bridge=bridge,
            overlay=overlay,
            strays=strays,
            ports=frozenset(link.name for link in self.links.values() if link.master == index),
            loose=frozenset(link.name for link in self.links.values() if link.master in going),
            unset=frozenset((path, shall[path]) for path in there if self.kernel.get(path) != shall[path]),
        )

    def perform(self, step: steps.Step) -> None:
        """One step; a KeyError where the kernel would say that there is no such link."""
        getattr(self, f"_{type(step).__name__}")(step)

    def _see(self, **changes: Any) -> None:
        self.seen = replace(self.seen, **changes)

    def _link(self, name: str, **changes: Any) -> None:
        self.links[name] = replace(self.links[name], **changes)

    def _add(self, link: Link) -> None:
        assert link.name not in self.links, f"{link.name} exists"
        self.links[link.name] = replace(link, index=self.next_index)
        self.next_index += 1

    def _DeleteLink(self, step: steps.DeleteLink) -> None:  # noqa: N802 -- named after the step
        gone = self.links.pop(step.name)
        self.kernel = {path: value for path, value in self.kernel.items() if f"/{step.name}/" not in path}
        if gone.kind == "bridge":
            self._see(addresses=frozenset(), routes=frozenset(), neighbours={}, bridged=frozenset())
            for link in list(self.links.values()):
                if link.master == gone.index:
                    self._link(link.name, master=0)
        if gone.kind == "vxlan":
            self._see(remote={}, bridged=frozenset())

    def _CreateBridge(self, step: steps.CreateBridge) -> None:  # noqa: N802
        self._add(Link(step.name, kind="bridge", mac=step.mac, mtu=step.mtu, learning=False))

    def _CreateOverlay(self, step: steps.CreateOverlay) -> None:  # noqa: N802
        self._add(Link(step.name, kind="vxlan", mtu=step.mtu, vni=step.vni, local=step.local, port=step.port))

    def _MarkLink(self, step: steps.MarkLink) -> None:  # noqa: N802
        self._link(step.name, alias=step.alias)

    def _RenameLink(self, step: steps.RenameLink) -> None:  # noqa: N802
        assert self.links[step.name].alias, "a link gets its name when it is marked"
        assert step.to not in self.links
        self.links[step.to] = replace(self.links.pop(step.name), name=step.to)

    def _SetLink(self, step: steps.SetLink) -> None:  # noqa: N802
        if step.mac:
            self._link(step.name, mac=step.mac)
        if step.mtu:
            self._link(step.name, mtu=step.mtu)
        if step.master:
            self._link(step.name, master=self.links[step.master].index, learning=True, suppress=False)
        if step.up:
            self._link(step.name, up=True)
        link = self.links[step.name]
        if link.kind == "vxlan" and link.up and link.master:
            assert self.seen.rules, "the overlay carries nothing before the rules stand"

    def _SetPort(self, step: steps.SetPort) -> None:  # noqa: N802
        assert self.links[step.name].master
        self._link(step.name, learning=False, suppress=step.suppress)

    def _SetKernel(self, step: steps.SetKernel) -> None:  # noqa: N802
        self.kernel[step.path] = step.value

    def _Address(self, step: steps.Address) -> None:  # noqa: N802
        assert step.link in self.links
        change = self.seen.addresses - {step.address} if step.gone else self.seen.addresses | {step.address}
        self._see(addresses=change)

    def _Route(self, step: steps.Route) -> None:  # noqa: N802
        route = (step.destination, step.gateway, step.metric)
        self._see(routes=self.seen.routes - {route} if step.gone else self.seen.routes | {route})

    def _SetEntries(self, step: steps.SetEntries) -> None:  # noqa: N802
        assert step.bridge in self.links
        assert step.overlay in self.links
        for entry in step.entries:
            if isinstance(entry, steps.Remote):
                self._remote(entry)
            elif isinstance(entry, steps.Bridged):
                change = self.seen.bridged - {entry.mac} if entry.gone else self.seen.bridged | {entry.mac}
                self._see(bridged=change)
            else:
                known = {k: v for k, v in self.seen.neighbours.items() if k != entry.address}
                self._see(neighbours=known if entry.gone else {**known, entry.address: entry.mac})

    def _remote(self, entry: steps.Remote) -> None:
        found = dict(self.seen.remote)
        have = found.pop(entry.mac, frozenset())
        if entry.gone:
            have -= {entry.to}
        elif entry.also:
            have |= {entry.to}
        else:
            # As the kernel: only a single destination can be replaced.
            assert len(have) <= 1, "replacing one of several destinations"
            have = frozenset({entry.to})
        self._see(remote=found | ({entry.mac: have} if have else {}))

    def _LoadRules(self, step: steps.LoadRules) -> None:  # noqa: N802
        self._see(
            rules=plan.digest(step.script), rules_of=self.wanted.bridge, tables=frozenset({"inet", "bridge"})
        )

    def _DropRules(self, step: steps.DropRules) -> None:  # noqa: N802
        self._see(rules="", rules_of="", tables=frozenset())

    def _WriteFile(self, step: steps.WriteFile) -> None:  # noqa: N802
        self._see(files={**self.seen.files, step.name: step.text})

    def _DropFile(self, step: steps.DropFile) -> None:  # noqa: N802
        self._see(files={name: text for name, text in self.seen.files.items() if name != step.name})

    def _StopServer(self, step: steps.StopServer) -> None:  # noqa: N802
        self._see(running=False, server_config="")

    def _StartServer(self, step: steps.StartServer) -> None:  # noqa: N802
        assert self.links[self.wanted.bridge].up
        assert not self.seen.running, "an older server ends first"
        self._see(running=True, server_config=step.config)

    def _ReloadServer(self, step: steps.ReloadServer) -> None:  # noqa: N802
        assert self.seen.running

    def _FreeLeases(self, step: steps.FreeLeases) -> None:  # noqa: N802
        assert not self.seen.running
        left = {
            address: owner for address, owner in self.seen.leases.items() if address not in step.addresses
        }
        self._see(leases=left)

    def _Forget(self, step: steps.Forget) -> None:  # noqa: N802
        self._see(files={}, leases={})
