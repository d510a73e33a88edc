"""Why the store refuses, in finer words than StoreUnavailable.  No SQL here, so that anybody may catch
them."""

from __future__ import annotations

from clusterhost.model.errors import StoreUnavailable


class StoreInUse(StoreUnavailable):
    """Another front end has the database open."""


class StoreDamaged(StoreUnavailable):
    """The database holds what this program never wrote; the text says how to go on."""


class Superseded(StoreUnavailable):
    """A newer front end took the database over (its epoch is higher): this process may not write any more."""
