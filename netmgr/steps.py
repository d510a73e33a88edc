"""Steps that change what a node has of a network: what each one is, as values.  Pure."""

from __future__ import annotations

from dataclasses import dataclass

from netmgr.wanted import WantedTag


@dataclass(frozen=True, slots=True)
class DeleteLink:
    """Take a link away."""

    name: str


@dataclass(frozen=True, slots=True)
class CreateBridge:
    """A bridge, down, by a temporary name."""

    name: str
    mac: str
    mtu: int


@dataclass(frozen=True, slots=True)
class CreateSwitch:
    """A bridge with MAC and MTU of its ports, down, by a temporary name.  filters: a new port of it is in no VLAN."""

    name: str
    filters: bool


@dataclass(frozen=True, slots=True)
class ReleaseLink:
    """A link is no bridge's port any more."""

    name: str


@dataclass(frozen=True, slots=True)
class FilterVlans:
    """A trunk's bridge filters again."""

    name: str


@dataclass(frozen=True, slots=True)
class CreateVlanLink:
    """A link for one VLAN of a device, down, by a temporary name."""

    name: str
    device: str
    tag: int


@dataclass(frozen=True, slots=True)
class SetVlans:
    """VLANs of a port: some there, with their flags, some gone."""

    port: str
    there: tuple[WantedTag, ...] = ()
    gone: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class CreateOverlay:
    """A VXLAN link, down, by a temporary name."""

    name: str
    vni: int
    local: str
    port: int
    mtu: int


@dataclass(frozen=True, slots=True)
class MarkLink:
    """Set a link's alias."""

    name: str
    alias: str


@dataclass(frozen=True, slots=True)
class RenameLink:
    """Give a link its name."""

    name: str
    to: str


@dataclass(frozen=True, slots=True)
class SetLink:
    """Change what differs: "" and 0 leave it as it is."""

    name: str
    mac: str = ""
    mtu: int = 0
    master: str = ""
    up: bool = False


@dataclass(frozen=True, slots=True)
class SetPort:
    """The bridge learns nothing from the overlay, and answers for those it knows behind it."""

    name: str
    suppress: bool


@dataclass(frozen=True, slots=True)
class SetApart:
    """Whether a port of the bridge is isolated from other isolated ones."""

    name: str
    apart: bool


@dataclass(frozen=True, slots=True)
class SetQueue:
    """How a bridge sends: in bytes a second and bytes.  rate 0: without limits."""

    name: str
    rate: int = 0
    ceil: int = 0
    burst: int = 0


@dataclass(frozen=True, slots=True)
class SetKernel:
    """A setting below /proc/sys."""

    path: str
    value: str


@dataclass(frozen=True, slots=True)
class Address:
    """An address of a link, there or gone."""

    link: str
    address: str
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """A route by a link, there or gone."""

    link: str
    destination: str
    gateway: str
    metric: int
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Remote:
    """In the overlay's table: frames for a MAC go to an underlay address.  `also`: besides others."""

    mac: str
    to: str
    also: bool = False
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Bridged:
    """In the bridge's table: a MAC is behind the overlay."""

    mac: str
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Neighbour:
    """In the bridge's neighbour table, permanent."""

    address: str
    mac: str
    gone: bool = False


Entry = Remote | Bridged | Neighbour


@dataclass(frozen=True, slots=True)
class SetEntries:
    """Entries of the tables, in this order."""

    bridge: str
    overlay: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class LoadRules:
    """Replace our tables in one transaction."""

    script: str


@dataclass(frozen=True, slots=True)
class DropRules:
    """Take our tables away."""

    script: str


@dataclass(frozen=True, slots=True)
class WriteFile:
    """A file of the server, replaced as a whole."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class DropFile:
    """No such file any more."""

    name: str


@dataclass(frozen=True, slots=True)
class StopServer:
    """End the network's dnsmasq, if it runs."""


@dataclass(frozen=True, slots=True)
class StartServer:
    """Start it with this configuration."""

    config: str


@dataclass(frozen=True, slots=True)
class ReloadServer:
    """Have it read its files again, for it does not notice all that is gone."""


@dataclass(frozen=True, slots=True)
class FreeLeases:
    """Take the leases of some addresses out of the lease file, while the server does not run."""

    addresses: frozenset[str]


@dataclass(frozen=True, slots=True)
class Forget:
    """Remove the directory of the server."""


Step = (
    DeleteLink | CreateBridge | CreateSwitch | FilterVlans | CreateVlanLink | SetVlans | ReleaseLink
    | CreateOverlay | MarkLink | RenameLink | SetLink | SetPort | SetApart | SetQueue | SetKernel
    | Address | Route | SetEntries | LoadRules | DropRules | WriteFile | DropFile | StopServer | StartServer
    | ReloadServer | FreeLeases | Forget
)  # fmt: skip
