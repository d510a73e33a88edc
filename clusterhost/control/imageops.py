"""Operations on a node's images: kinds, arguments and results, as the process that carries them out has them.  Pure."""

from __future__ import annotations

from imagemgr.transfer.orders import (
    ARGUMENTS,
    DIGEST,
    FETCH,
    OFFER,
    PARTS,
    REMOVE,
    STOP,
    DigestArgs,
    FetchArgs,
    Fetched,
    OfferArgs,
    Offered,
    Part,
    PartsArgs,
    RemoveArgs,
    Source,
    StopArgs,
)

KINDS = frozenset(ARGUMENTS)

__all__ = [
    "DIGEST",
    "FETCH",
    "KINDS",
    "OFFER",
    "PARTS",
    "REMOVE",
    "STOP",
    "DigestArgs",
    "FetchArgs",
    "Fetched",
    "OfferArgs",
    "Offered",
    "Part",
    "PartsArgs",
    "RemoveArgs",
    "Source",
    "StopArgs",
]
