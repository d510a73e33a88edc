"""A process to be killed: writes domains into a store, one after the other, and says each that is kept.

`python -m tests.support.store_writer URL COUNT`
"""

from __future__ import annotations

import asyncio
import sys

from clusterhost.store.rows import DomainRow, Journal, PutDomain, SetMeta
from clusterhost.store.store import Store


def domain(number: int) -> DomainRow:
    """The domain that number stands for."""
    return DomainRow(number.to_bytes(16, "big"), f"d{number}", "n1", generation=number, xml="x" * 3000)


async def main(url: str, count: int) -> None:
    """Write, say so, go on.  Each transaction has three changes that must stay together."""
    store = await Store.open(url)
    print("open", flush=True)
    for number in range(count):
        await store.write(
            PutDomain(domain(number)),
            SetMeta("last", str(number)),
            Journal(float(number), "define", f"d{number}", "test", "written"),
        )
        print(number, flush=True)
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
