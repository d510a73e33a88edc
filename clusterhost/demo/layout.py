"""Where the demo keeps what, and what its machines are called: paths, names and addresses only.  Pure."""

from dataclasses import dataclass
from pathlib import Path

# A range that home and office networks rarely use; it exists inside the demo's namespaces only.
FRONT_ADDRESS = "10.111.0.1"
PREFIX_LENGTH = 24
MAX_NODES = 100
FRONT = "front"
BRIDGE = "br0"
NIC = "eth0"
# Every process of a demo carries its state directory in this variable: what `down` finds leftovers by.
MARKER = "CLUSTERHOST_DEMO"
# sockaddr_un.sun_path holds 108 bytes with the final zero.
_SOCKET_PATH_LIMIT = 107
# Each node sees a directory of its own at these paths, so a state directory below one would be hidden.
NODE_DIRECTORIES = {
    "run": "/run",
    "lib": "/var/lib/libvirt",
    "etc": "/etc/libvirt",
    "log": "/var/log",
    "cache": "/var/cache",
}


class DemoError(Exception):
    """The demo cannot do what was asked; the message says what was found and what was allowed."""


@dataclass(frozen=True)
class Layout:
    """The paths of one demo; `state` is absolute."""

    state: Path

    @property
    def marker(self) -> Path:
        return self.state / "clusterhost-demo"

    @property
    def lock(self) -> Path:
        return self.state / "lock"

    @property
    def run_file(self) -> Path:
        return self.state / "run.json"

    @property
    def guest(self) -> Path:
        return self.state / "guest"

    @property
    def shared(self) -> Path:
        """For disks of guests that move: the same directory on every node, at the same path."""
        return self.state / "shared"

    @property
    def front(self) -> Path:
        return self.state / FRONT

    @property
    def nodes(self) -> Path:
        return self.state / "nodes"

    def machine(self, name: str) -> Path:
        return self.front if name == FRONT else self.nodes / name

    def node_socket(self, name: str) -> Path:
        return self.nodes / name / "run" / "libvirt" / "libvirt-sock"


def layout(state: Path) -> Layout:
    """Return the layout of the demo in `state`; raises DemoError for a path that cannot work."""
    resolved = state.resolve()
    for hidden in (*NODE_DIRECTORIES.values(), "/proc", "/sys", "/dev", "/etc", "/boot", "/usr"):
        if resolved.is_relative_to(hidden):
            raise DemoError(
                f"state directory {resolved} is below {hidden}, which nodes replace or must not change"
            )
    if resolved == Path("/"):
        raise DemoError("state directory is /, it must be a directory of its own")
    longest = Layout(resolved).node_socket(f"n{MAX_NODES}").with_name("libvirt-admin-sock")
    if len(str(longest)) > _SOCKET_PATH_LIMIT:
        message = (
            f"state directory {resolved} is too long for unix sockets inside it: {len(str(longest))} bytes"
        )
        raise DemoError(f"{message}, allowed are {_SOCKET_PATH_LIMIT}")
    return Layout(resolved)


def node_names(count: int) -> tuple[str, ...]:
    """Return n1, n2, ...; raises DemoError unless 1 <= count <= MAX_NODES."""
    if not 1 <= count <= MAX_NODES:
        raise DemoError(f"{count} nodes were asked for, allowed are 1 to {MAX_NODES}")
    return tuple(f"n{number}" for number in range(1, count + 1))


def node_number(name: str) -> int:
    """Return 3 for n3."""
    return int(name[1:])


def node_address(name: str) -> str:
    """Return the node's address on the demo's bridge: n1 has 10.111.0.11."""
    return f"10.111.0.{10 + node_number(name)}"


def node_mac(name: str) -> str:
    """Return a fixed MAC, so that old ARP entries still lead to a node that was powered on again."""
    return mac_of(node_address(name))


def mac_of(address: str) -> str:
    """Return the MAC that encodes an IPv4 address: 02:00 and its four bytes."""
    return "02:00:" + ":".join(f"{int(part):02x}" for part in address.split("."))


def hosts_file(names: tuple[str, ...]) -> str:
    """Return /etc/hosts for all machines: libvirt hands out hostnames as migration addresses."""
    rows = [f"{node_address(name)} {name}" for name in names]
    return "\n".join(["127.0.0.1 localhost", f"{FRONT_ADDRESS} {FRONT}", *rows, ""])
