"""Where a migration URI leads: to a node of ours, to wherever we choose, or out of the cluster.  No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from clusterhost.config import Settings
from clusterhost.model.cluster import Cluster
from compat.libvirt.uri import UriError, parse_uri, quote

LOCAL = frozenset({"", "localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Way:
    """inside False: a foreign libvirt.  node None: inside, and ours to choose."""

    inside: bool
    node: str | None = None


def way_of(uri: str, settings: Settings, cluster: Cluster) -> Way:
    """Read a destination URI as the client gave it: our endpoint, perhaps with ?node=NAME, or somebody
    else's."""
    try:
        parsed = parse_uri(uri)
    except UriError:
        return Way(False)
    node = parsed.get("node")
    if node is not None:
        return Way(node in cluster.nodes, node if node in cluster.nodes else None)
    if parsed.transport in ("", "unix") and not parsed.host:
        path = parsed.get("socket")
        ours = path is None or PurePath(path).parent == PurePath(settings.listen.unix_sock_dir)
        return Way(ours)
    names = {settings.cluster.hostname, settings.listen.listen_addr} | LOCAL
    return Way(parsed.host in names and parsed.transport in ("", "tcp", "tls", "ssh", "libssh", "libssh2"))


def socket_uri(path: str) -> str:
    """The URI of a unix socket on the dialling node."""
    return f"qemu+unix:///system?socket={quote(path)}"


def memory_uri(address: str) -> str:
    """Where guest memory is sent, the port left to the node; "" when no address is known."""
    if not address:
        return ""
    return f"tcp://[{address}]" if ":" in address else f"tcp://{address}"
