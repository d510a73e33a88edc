"""Network documents: netmgr's values and refusals in the service's terms (networks.Documents).  Makes up MACs."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from clusterhost.model.errors import NetworkRefused
from clusterhost.service.networks import NONE, Metadata
from netmgr import check, fill, metadata, rules, update, xml
from netmgr.errors import NetworkError
from netmgr.model import Network

MAC_PREFIX = b"\x52\x54\x00"
"""Of bridges, as libvirt makes them up."""


@contextmanager
def refusals() -> Iterator[None]:
    """netmgr's errors become NetworkRefused, which says which."""
    try:
        yield
    except NetworkError as error:
        raise NetworkRefused(str(error), type(error).__name__) from error


class NetworkDocuments:
    """networks.Documents."""

    def read(self, text: str, *, validate: bool) -> Network:
        """What libvirt would take, and a cluster can honour."""
        with refusals():
            return xml.read(text, validate=validate)

    def complete(
        self, network: Network, uuid: bytes, others: list[Network], taken: Collection[str]
    ) -> Network:
        """With uuid, bridge and MAC; it stands beside the others."""
        with refusals():
            mac = ":".join(f"{byte:02x}" for byte in MAC_PREFIX + secrets.token_bytes(3))
            whole = fill.complete(network, uuid, mac, {*taken, *(other.bridge.name for other in others)})
            rules.check(whole)
            check.alone(whole)
            check.beside(whole, others)
        return whole

    def write(
        self, network: Network, *, connections: int | None = None, used: Mapping[str, int] = NONE
    ) -> str:
        """As libvirt writes it."""
        return xml.write(network, connections=connections, used=used)

    def update(self, network: Network, command: int, section: int, index: int, text: str) -> Network:
        """net-update."""
        with refusals():
            changed = update.update(network, command, section, index, text)
            rules.check(changed)
            check.alone(changed)
        return changed

    def beside(self, network: Network, others: list[Network]) -> None:
        """It has nothing that is another's."""
        with refusals():
            check.beside(network, others)

    def metadata(self, network: Network, kind: int, uri: str | None) -> str:
        """What is said of it."""
        with refusals():
            return metadata.get(network, kind, uri)

    def with_metadata(self, network: Network, said: Metadata) -> Network:
        """Say something else."""
        with refusals():
            return metadata.put(network, said.kind, said.text, said.key, said.uri)
