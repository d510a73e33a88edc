"""How much nodes may keep of what could be evicted: as it was said of a pool, or of all.  Evicts nothing."""

from __future__ import annotations

from clusterhost.model.errors import InvalidArgument, InvalidOperation
from clusterhost.service.context import Context
from clusterhost.service.image_needs import COPIED
from clusterhost.service.ports import Caller
from clusterhost.service.volume_calls import Entry
from clusterhost.store.rows import SetMeta
from imagemgr.cache import BadLimit, CacheLimit
from imagemgr.model import Kind

LIMIT = "pool cache "
"""Before a pool's uuid in the store: its limit, NONE, or "" where nobody has said."""
NONE, DEFAULT = "none", "default"


def limit_text(context: Context, entry: Entry) -> str:
    """What was said of the pool, else of all; "" for no limit."""
    told = context.ledger.meta.get(LIMIT + entry.uuid.hex(), "")
    text = told or context.settings.images.cache_limit
    return "" if text == NONE or not has_cache(entry) else text


async def set_limit(context: Context, caller: Caller, entry: Entry, text: str) -> None:
    """A limit, NONE, or DEFAULT: what the configuration says.  InvalidArgument, InvalidOperation."""
    if text not in (NONE, DEFAULT):
        try:
            CacheLimit.read(text)
        except BadLimit as error:
            raise InvalidArgument(str(error)) from error
    if not has_cache(entry):
        raise InvalidOperation(
            f"pool '{entry.name}' has each volume once: only local pools of directories have copies to limit"
        )
    ledger = context.ledger
    line = ledger.journal("set pool", entry.name, caller.who, f"cache limit {text}")
    await ledger.commit(SetMeta(LIMIT + entry.uuid.hex(), "" if text == DEFAULT else text), line)


def forgotten(uuid: bytes) -> SetMeta:
    """The pool is no more."""
    return SetMeta(LIMIT + uuid.hex(), "")


def has_cache(entry: Entry) -> bool:
    """Its volumes may have several copies, which are files."""
    return entry.kind is Kind.LOCAL and entry.pool.type in COPIED
