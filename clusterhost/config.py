"""The settings of the front end and of an agent: read from TOML, checked, frozen.  Opens only the file."""

from __future__ import annotations

import re
import socket
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from imagemgr.cache import CacheLimit
from imagemgr.errors import ImageError

DEFAULT_PATH = Path("/etc/clusterhost/clusterhost.toml")
DEFAULT_AGENT_PATH = Path("/etc/clusterhost/agent.toml")

Endpoint = Annotated[str, Field(pattern=r"^(tcp://(\[[0-9a-fA-F:]+\]|[^:/\s]+):\d{1,5}|ipc://\S+)$")]
Dialled = Annotated[
    str, Field(pattern=r"^(srv:[A-Za-z0-9._-]+|tcp://(\[[0-9a-fA-F:]+\]|[^:/\s]+):\d{1,5}|ipc://\S+)?$")
]
Names = Annotated[str, Field(pattern=r"^[A-Za-z0-9._\s-]*$")]
Mode = Annotated[str, Field(pattern=r"^0?[0-7]{3}$")]
Port = Annotated[int, Field(ge=0, le=65535)]


class ConfigError(Exception):
    """The file cannot be used; the message names the key, what was found and what is allowed."""


T = TypeVar("T", bound="Section")


class Section(BaseModel):
    """One table of the file: unknown keys are refused, values do not change."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ClusterSection(Section):
    """[cluster]: who this cluster is and where it keeps its state."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)] = "clusterhost"
    """Name of the cluster."""
    hostname: str = ""
    """What `virsh hostname` answers; the machine's own name when empty."""
    state_dir: Path = Path("/var/lib/clusterhost")
    """Where the front end keeps its store and its key."""
    admin_socket: Path = Path()
    """STATE_DIR/admin.sock when empty."""


class ListenSection(Section):
    """[listen]: where clients connect; names and defaults are libvirtd.conf's."""

    unix_sock_dir: Path = Path("/run/libvirt")
    """The sockets `libvirt-sock` and `libvirt-sock-ro` are made here."""
    unix_sock_group: str = ""
    """Group of the read-write socket; root's when empty."""
    unix_sock_rw_perms: Mode = "0770"
    """Mode of the read-write socket."""
    unix_sock_ro_perms: Mode = "0777"
    """Mode of the read-only socket."""
    listen_tcp: bool = False
    """Also listen on TCP, without authentication: on loopback addresses alone."""
    listen_addr: str = "127.0.0.1"
    """Address of the TCP socket."""
    tcp_port: Port = 16509
    """Port of the TCP socket."""
    max_clients: Annotated[int, Field(ge=1)] = 5000
    """Clients at the same time."""
    max_anonymous_clients: Annotated[int, Field(ge=1)] = 20
    """Of these, clients that have not authenticated yet; where nobody has to, nobody counts (as in libvirtd)."""
    max_queued_clients: Annotated[int, Field(ge=1)] = 1000
    """Clients that wait to be accepted."""
    max_client_requests: Annotated[int, Field(ge=1)] = 5
    """Calls of one client that are worked on at the same time."""
    keepalive_interval: Annotated[int, Field(ge=-1)] = 5
    """Seconds; -1 never sends keepalive requests."""
    keepalive_count: Annotated[int, Field(ge=0)] = 5
    """Unanswered keepalive requests after which a client is dropped."""


class GraphicsSection(Section):
    """[graphics]: where clients reach the displays of domains, whichever node they run on."""

    listen: str = "127.0.0.1"
    """Address of the ports that live XML shows; 0.0.0.0 for clients on other machines."""
    port_min: Annotated[int, Field(ge=1, le=65535)] = 5900
    """First port, as remote_display_port_min of qemu.conf."""
    port_max: Annotated[int, Field(ge=1, le=65535)] = 65535
    """Last port."""


class ControlSection(Section):
    """[control]: where agents connect (ZeroMQ endpoints), and our key."""

    control: Endpoint = "tcp://0.0.0.0:16600"
    """For calls and heartbeats."""
    bulk: Endpoint = "tcp://0.0.0.0:16601"
    """For streams, tunnels and files, which heartbeats must not wait behind."""
    direct: Annotated[str, Field(pattern=r"^(off|tcp://(\[[0-9a-fA-F:]+\]|[^:/\s]+):\d{1,5})?$")] = ""
    """For calls that only ask and for the bytes of volumes (TLS); empty: `control`'s host, the port after `bulk`'s;
    `off`: they go by `control` and `bulk`."""
    key_file: Path = Path()
    """STATE_DIR/control.key when empty; made by `clusterhost init`."""


class StoreSection(Section):
    """[store]: the database."""

    url: Annotated[str, Field(pattern=r"^(sqlite:///|postgresql\+psycopg://)")] = "sqlite:///"
    """STATE_DIR/clusterhost.db when not given."""


class PlacementSection(Section):
    """[placement]: who runs where."""

    policy: Literal["striping", "packing"] = "striping"
    """`striping` spreads domains over nodes, `packing` fills one node after the other."""
    cpu_overcommit: Annotated[float, Field(gt=0)] = 16.0
    """vCPUs that may be given out for each CPU."""
    memory_overcommit: Annotated[float, Field(gt=0)] = 1.0
    """Memory that may be given out, as a multiple of what is there."""
    node_memory_reserve_mib: Annotated[int, Field(ge=0)] = 64
    """MiB of each node that are never given to domains."""


class CallsSection(Section):
    """[calls]: how long a relayed call may take, in seconds; 0 = without end."""

    deadline: Annotated[float, Field(ge=0)] = 30.0
    """For calls that libvirtd answers at once."""
    long_deadline: Annotated[float, Field(ge=0)] = 0.0
    """For calls that take long, such as save, dump and migrate."""


class NetworksSection(Section):
    """[networks]: the cluster's own networks."""

    mac_prefix: Annotated[str, Field(pattern=r"^[0-9a-f][02468ace]:[0-9a-f]{2}$")] = "02:00"
    """First two bytes of MACs that are made from an IPv4 address; the last four are the address's.  Not a group's (the
    first byte is even).  A change concerns interfaces that are defined from then on."""


class ImagesSection(Section):
    """[images]: pools and volumes."""

    linked_clones: bool = False
    """A clone within a pool is an overlay of its source, where `clusterhost pool set` says nothing else of the pool;
    else a copy."""
    directories: str = "/var/lib/libvirt/boot /var/lib/libvirt/images"
    """With spaces between.  Files below these that domains only read (kernels, initrds, install media) and that are no
    volumes are copied to a node where a domain starts; from nowhere else."""

    @field_validator("directories")
    @classmethod
    def _directories(cls, value: str) -> str:
        return _each(value, r"/\S*", "an absolute path")

    cache_limit: str = ""
    """The most that copies of images which could be evicted may take on each node, in each pool: `20GiB`, or `30%` of
    what the pool can hold there. When more are there, the least recently used go. Without limit when empty;
    `clusterhost pool set` says it of a pool."""

    @field_validator("cache_limit")
    @classmethod
    def _limit(cls, value: str) -> str:
        if value:
            try:
                CacheLimit.read(value)
            except ImageError as error:
                raise ValueError(str(error)) from error
        return value


class NamesSection(Section):
    """[names]: names of guests and networks in a DNS server outside, by signed updates (RFC 2136)."""

    server: str = ""
    """Address or name of the zones' primary server; none when empty."""
    port: Port = 53
    """Its port (TCP)."""
    key_file: Path = Path()
    """TSIG key that may update the zones, and should be allowed to transfer them; as tsig-keygen writes it."""
    zones: Names = ""
    """Zones it lets us write, forward and reverse, with spaces between."""
    domain: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]*$")] = ""
    """For guests of networks whose `<domain>` is in none of the zones."""
    hosts: Names = ""
    """Full names of machines that run the front end, the usual one first: published as SRV records below `domain`,
    which clients and agents look up.  None when empty."""
    endpoint_port: Port = 22
    """Port of the endpoint in its SRV record: 22 means by ssh, 16514 TLS, 16509 TCP."""
    ttl: Annotated[int, Field(ge=0, le=86400)] = 60
    """Seconds for which others may remember a record."""
    timeout: Annotated[float, Field(gt=0)] = 5.0
    """Seconds for each answer."""
    resync: Annotated[float, Field(ge=1)] = 60.0
    """Seconds between two looks for what somebody else changed."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.server and not (self.zones.split() and self.key_file != Path()):
            raise ValueError("a server needs zones and key_file, too")
        if self.hosts and not (self.server and self.domain):
            raise ValueError("hosts need a server and a domain, too")
        return self


class LogSection(Section):
    """[log]: levels are libvirtd's: 1 debug, 2 information, 3 warnings, 4 errors."""

    log_level: Annotated[int, Field(ge=1, le=4)] = 3
    """What is logged at all."""
    log_filters: str = ""
    """`LEVEL:NAME ...`: another level for a logger and those below it."""
    log_outputs: str = ""
    """`LEVEL:stderr`, `LEVEL:file:PATH`, `LEVEL:journald`, several with spaces between; stderr when empty."""

    @field_validator("log_filters")
    @classmethod
    def _filters(cls, value: str) -> str:
        return _each(value, r"[1-4]:[\w.]+", "LEVEL:NAME with LEVEL 1 to 4")

    @field_validator("log_outputs")
    @classmethod
    def _outputs(cls, value: str) -> str:
        return _each(
            value, r"[1-4]:(stderr|journald|file:/\S+)", "LEVEL:stderr, LEVEL:journald or LEVEL:file:/PATH"
        )


class Settings(Section):
    """Everything the front end needs to know (clusterhost.toml)."""

    cluster: ClusterSection = ClusterSection()
    listen: ListenSection = ListenSection()
    graphics: GraphicsSection = GraphicsSection()
    control: ControlSection = ControlSection()
    store: StoreSection = StoreSection()
    placement: PlacementSection = PlacementSection()
    calls: CallsSection = CallsSection()
    networks: NetworksSection = NetworksSection()
    images: ImagesSection = ImagesSection()
    names: NamesSection = NamesSection()
    log: LogSection = LogSection()

    @model_validator(mode="after")
    def _fill(self) -> Self:
        state = self.cluster.state_dir
        cluster = {
            "hostname": self.cluster.hostname or socket.gethostname(),
            "admin_socket": _or(self.cluster.admin_socket, state / "admin.sock"),
        }
        self._set("cluster", self.cluster.model_copy(update=cluster))
        key_file = _or(self.control.key_file, state / "control.key")
        self._set("control", self.control.model_copy(update={"key_file": key_file}))
        if self.store.url == "sqlite:///":
            url = f"sqlite:///{state.absolute() / 'clusterhost.db'}"
            self._set("store", self.store.model_copy(update={"url": url}))
        return self

    def _set(self, name: str, value: Section) -> None:
        # The one moment at which a frozen value may still be completed: its own validation.
        self.__dict__[name] = value


class AgentSettings(Section):
    """Everything an agent needs to know (agent.toml, table [agent], with an optional [log])."""

    node: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
    """Name of the node, as given to `clusterhost node add`."""
    uri: Annotated[str, Field(pattern=r"^\w+(\+\w+)?://")] = "qemu:///system"
    """libvirt URI of the node's libvirtd."""
    control: Dialled = ""
    """The front end's [control] control, or `srv:DOMAIN`: DNS says where it is; the token's, else
    tcp://127.0.0.1:16600, when empty."""
    bulk: Annotated[str, Field(pattern=r"^((tcp|ipc)://\S+)?$")] = ""
    """The front end's [control] bulk; as `control`, when empty."""
    nameserver: str = ""
    """Who is asked for `srv:`, as `ADDRESS` or `ADDRESS:PORT`; the system's servers when empty."""
    state_dir: Path = Path("/var/lib/clusterhost-agent")
    """Where the agent keeps its key and what it has carried out."""
    key_file: Path = Path()
    """STATE_DIR/agent.key when empty; made at the first start."""
    server_key: Annotated[str, Field(pattern=r"^(.{40})?$")] = ""
    """The front end's public key (z85); may be left out when `token` has it."""
    token: str = ""
    """One-time join token of `clusterhost node add`; for the first start only."""
    migration_address: str = ""
    """Address at which other nodes send this node guests that move; the hostname when empty."""
    underlay_address: str = ""
    """Address for networks that span hosts (VXLAN); `migration_address`, or what the front end is dialled from, when
    empty."""
    images_address: str = ""
    """Address from which other nodes fetch images; `underlay_address`, or what stands for it, when empty."""
    images_port: Port = 0
    """Port for that (TCP); 0: the kernel chooses one whenever the process that sends images starts."""
    images_sending_mib: Annotated[float, Field(ge=0)] = 0.0
    """MiB per second of images that leave the node, for all who fetch together; 0 = without limit."""
    images_receiving_mib: Annotated[float, Field(ge=0)] = 0.0
    """MiB per second of images that come to the node; 0 = without limit."""
    peer_dir: Path = Path("/run/clusterhost/peers")
    """Sockets that lead to the libvirtd of other nodes, for peer-to-peer migration."""
    has_files: bool = True
    """The agent sees the node's files (it runs on the node)."""
    log: LogSection = LogSection()

    @model_validator(mode="after")
    def _fill(self) -> Self:
        # The one moment at which a frozen value may still be completed: its own validation.
        self.__dict__["key_file"] = _or(self.key_file, self.state_dir / "agent.key")
        return self


def load(path: Path) -> Settings:
    """Read clusterhost.toml; ConfigError."""
    return _checked(Settings, path, _read(path))


def load_agent(path: Path) -> AgentSettings:
    """Read agent.toml; ConfigError."""
    tables = _read(path)
    unknown = sorted(set(tables) - {"agent", "log"})
    if unknown:
        raise ConfigError(f"{path}: unknown key '{unknown[0]}'; allowed: [agent], [log]")
    if not isinstance(tables.get("agent"), dict):
        raise ConfigError(f"{path}: the table [agent] is missing")
    return _checked(AgentSettings, path, {**tables["agent"], "log": tables.get("log", {})})


def dump(settings: Settings | AgentSettings) -> str:
    """The settings in use, defaults filled in, as TOML that can be read again."""
    values = settings.model_dump(mode="json")
    if isinstance(settings, AgentSettings):
        values = {"log": values.pop("log"), "agent": values}
    blocks = []
    for table, keys in values.items():
        rows = "".join(f"{key} = {_toml(value)}\n" for key, value in keys.items())
        blocks.append(f"[{table}]\n{rows}")
    return "\n".join(blocks)


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def _checked(kind: type[T], path: Path, values: dict[str, Any]) -> T:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{path}: {'; '.join(_sentence(kind, item) for item in error.errors())}") from error


def _sentence(kind: type[Section], item: Any) -> str:
    """`unknown key 'polcy' in [placement]; allowed: ...` or `tcp_port in [listen]: found 99999, ...`."""
    *tables, key = [str(part) for part in item["loc"]] or ["file"]
    where = f" in [{tables[0]}]" if tables else ""
    if item["type"] == "extra_forbidden":
        section = kind.model_fields[tables[0]].annotation if tables else kind
        allowed = ", ".join(section.model_fields)  # type: ignore[union-attr]
        return f"unknown key '{key}'{where}; allowed: {allowed}"
    if item["type"] == "missing":
        return f"the key '{key}' is missing{where}"
    reason = item["msg"].removeprefix("Value error, ")
    return f"{key}{where}: found {item['input']!r}, but {reason[:1].lower()}{reason[1:]}"


def _each(value: str, pattern: str, allowed: str) -> str:
    for word in value.split():
        if not re.fullmatch(pattern, word):
            raise ValueError(f"'{word}' is not {allowed}")
    return value


def _or(given: Path, default: Path) -> Path:
    return default if given == Path() else given


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
