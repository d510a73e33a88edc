"""Generate compat/libvirt/{messages/*,walkers,procedures,constants}.py from the facts in tools/facts.

Usage: python tools/generate_messages.py [--check]     (--check writes nothing and fails when a file is stale)

The code is straight-line: neighbouring fixed-size members, and the count word of what follows them, go
through one struct call.  docs/protocol.md tells the whole way from fact to message.
"""

from __future__ import annotations

import sys
from pathlib import Path

from generator.facts import Facts
from generator.messages import messages
from generator.tables import tables

TARGET = Path(__file__).resolve().parent.parent / "compat" / "libvirt"


def same(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


def main() -> None:
    facts = Facts()
    files = messages(facts) | tables(facts)
    stale = [name for name, text in files.items() if not same(TARGET / name, text)]
    stray = [path for path in (TARGET / "messages").glob("*.py") if f"messages/{path.name}" not in files]
    if "--check" in sys.argv:
        if stale or stray:
            names = ", ".join(stale + [path.name for path in stray])
            sys.exit(f"stale, run python tools/generate_messages.py: {names}")
        return
    for name in stale:
        (TARGET / name).write_text(files[name])
    for path in stray:
        path.unlink()


if __name__ == "__main__":
    main()
