"""Write a generated file, or with --check only compare it.  Knows no generator."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def finish(path: Path, text: str) -> int:
    """Exit code for a generator of one file; `path` is relative to the root."""
    target = ROOT / path
    fresh = target.is_file() and target.read_text() == text
    if "--check" not in sys.argv[1:]:
        if not fresh:
            target.write_text(text)
        return 0
    if not fresh:
        print(f"{path} is not what {Path(sys.argv[0]).name} writes now", file=sys.stderr)
    return 0 if fresh else 1
