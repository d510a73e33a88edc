"""Rows of leases, found by network, domain or MAC without a look at all others.  Knows no network and no store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, ValuesView
from typing import TypeVar

from clusterhost.store.rows import LeaseRow

T = TypeVar("T", bytes, str)


class LeaseTable:
    """Rows by key, each kind of question with an index of its own; answers are in the order in which rows came."""

    def __init__(self, rows: Iterable[LeaseRow] = ()) -> None:
        self._rows: dict[str, LeaseRow] = {}
        self._by_network: dict[bytes, dict[str, LeaseRow]] = {}
        self._by_domain: dict[bytes, dict[str, LeaseRow]] = {}
        self._by_mac: dict[str, dict[str, LeaseRow]] = {}
        for row in rows:
            self.put(row)

    def put(self, row: LeaseRow) -> None:
        """Add it, or put it in the place of the one with its key."""
        old = self._rows.get(row.key)
        self._rows[row.key] = row
        # Network and MAC are parts of the key, the domain is not.
        if old is not None and old.domain != row.domain:
            _drop(self._by_domain, old.domain, row.key)
        self._by_network.setdefault(row.network, {})[row.key] = row
        if row.domain:
            self._by_domain.setdefault(row.domain, {})[row.key] = row
        if row.mac:
            self._by_mac.setdefault(row.mac, {})[row.key] = row

    def drop(self, key: str) -> None:
        """No error when it is not there."""
        row = self._rows.pop(key, None)
        if row is not None:
            _drop(self._by_network, row.network, key)
            _drop(self._by_domain, row.domain, key)
            _drop(self._by_mac, row.mac, key)

    def get(self, key: str) -> LeaseRow | None:
        """None when there is none."""
        return self._rows.get(key)

    def values(self) -> ValuesView[LeaseRow]:
        """All of them."""
        return self._rows.values()

    def __len__(self) -> int:
        return len(self._rows)

    def of_network(self, uuid: bytes) -> list[LeaseRow]:
        """Of one network."""
        return list(self._by_network.get(uuid, {}).values())

    def of_domain(self, uuid: bytes) -> list[LeaseRow]:
        """Those that a domain's interfaces have."""
        return list(self._by_domain.get(uuid, {}).values())

    def user(self, mac: str) -> LeaseRow | None:
        """A row by which a domain has that MAC, in whichever network."""
        return next((row for row in self._by_mac.get(mac, {}).values() if row.domain), None)

    def macs_in_use(self) -> Iterator[str]:
        """MACs that domains have."""
        return (mac for mac in self._by_mac if self.user(mac) is not None)


def _drop(index: dict[T, dict[str, LeaseRow]], name: T, key: str) -> None:
    rows = index.get(name, {})
    rows.pop(key, None)
    if not rows:
        index.pop(name, None)
