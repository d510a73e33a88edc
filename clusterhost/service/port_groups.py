"""Which port group of its network an interface names, by network and MAC: kept, for nodes are told its VLANs before
they are asked.  Only of networks whose VLANs are ours."""

from __future__ import annotations

from clusterhost.service.ledger import Ledger
from clusterhost.service.networks import Net
from clusterhost.store.rows import Change, SetMeta
from netmgr import tags
from netmgr.wanted import WantedTag


class PortGroups:
    """In the store's table of single values, as what is said of isolation."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def vlans(self, net: Net | None, mac: str) -> tuple[WantedTag, ...]:
        """Of a MAC."""
        if net is None or not tags.is_trunked(net.shown):
            return ()
        return tags.of_guest(net.shown, self._ledger.meta.get(_key(net.uuid, mac), ""))

    def said(self, net: Net, mac: str, group: str) -> tuple[Change, ...]:
        """The change that keeps what an interface names, "" for none.  Empty when that is known."""
        return self._kept(net.uuid, mac, group if tags.is_trunked(net.shown) else "")

    def gone(self, network: bytes, mac: str) -> tuple[Change, ...]:
        """The change that forgets it."""
        return self._kept(network, mac, "")

    def _kept(self, network: bytes, mac: str, group: str) -> tuple[Change, ...]:
        key = _key(network, mac)
        return (SetMeta(key, group),) if self._ledger.meta.get(key, "") != group else ()


def _key(network: bytes, mac: str) -> str:
    return f"portgroup {network.hex()} {mac}"
