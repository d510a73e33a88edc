"""Print how fast the store is: commits a second, start with 10 000 domains.  Figures, not a test.

Writes into a temporary directory, or the database of --url, which must be empty.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from clusterhost.store.rows import DomainRow, PutDomain
from clusterhost.store.store import Store

XML = "<domain type='qemu'>" + "x" * 4000 + "</domain>"


def domain(number: int) -> PutDomain:
    """A domain with a definition of the usual size."""
    return PutDomain(DomainRow(number.to_bytes(16, "big"), f"d{number}", "n1", xml=XML))


async def measure(url: str, alone: int, callers: int) -> None:
    """Print the figures of the database at `url`."""
    store = await Store.open(url)
    start = time.perf_counter()
    for number in range(alone):
        await store.write(domain(number))
    print(f"one caller:        {alone / (time.perf_counter() - start):8.0f} commits/s")
    start = time.perf_counter()
    await asyncio.gather(*(store.write(domain(number)) for number in range(callers)))
    print(f"{callers} at once:     {callers / (time.perf_counter() - start):8.0f} commits/s (grouped)")
    await store.close()
    start = time.perf_counter()
    store = await Store.open(url)
    opened = time.perf_counter()
    saved = await store.load()
    took = time.perf_counter() - opened
    print(f"open {opened - start:.2f} s, load of {len(saved.domains)} domains {took:.2f} s")
    await store.close()


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="default: SQLite in a temporary directory")
    parser.add_argument("--directory", type=Path, help="where to make that directory (a disk that matters)")
    parser.add_argument("--alone", type=int, default=1000)
    parser.add_argument("--callers", type=int, default=10000)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.directory) as directory:
        asyncio.run(
            measure(chosen.url or f"sqlite:///{directory}/clusterhost.db", chosen.alone, chosen.callers)
        )


if __name__ == "__main__":
    main()
