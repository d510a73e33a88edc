"""What interfaces say of <port isolated=...>, by network and MAC: kept, for nodes are told before they are asked.

Whose interface says nothing is as its network says.  libvirt shows of one that runs what is in force.
"""

from __future__ import annotations

from clusterhost.service.ledger import Ledger
from clusterhost.store.rows import Change, SetMeta

_WORDS = {True: "yes", False: "no", None: ""}


class Isolation:
    """In the store's table of single values: only few interfaces say anything."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def of(self, network: bytes, mac: str, otherwise: bool | None) -> bool:
        """Whether a MAC is isolated; `otherwise`: what its network says."""
        said = self._ledger.meta.get(_key(network, mac), "")
        return said == "yes" if said else bool(otherwise)

    def said(
        self, network: bytes, mac: str, isolated: bool | None, otherwise: bool | None
    ) -> tuple[Change, ...]:
        """The change that keeps what an interface says, None: nothing.  Empty when that is known."""
        key, word = _key(network, mac), _WORDS[isolated if isolated != bool(otherwise) else None]
        return (SetMeta(key, word),) if self._ledger.meta.get(key, "") != word else ()


def _key(network: bytes, mac: str) -> str:
    return f"isolated {network.hex()} {mac}"
