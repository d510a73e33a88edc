"""Check that no tracked file names a package registry's host or a path of the machine it was written on."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.tree import ROOT, tracked

REGISTRIES = (
    r"(?:files\.)?python(?:hosted)\.org|\bpypi\.(?:org)|registry\.(?:npmjs|yarnpkg)\.|deb\.(?:debian)\.org"
)
MACHINES = r"(?<![\w.$}~-])/(?:work|farm|root|home/\w+|opt/(?:pypi|wheels))/"
FORBIDDEN = (
    (re.compile(REGISTRIES), "host of a registry"),
    (re.compile(MACHINES), "path of one machine"),
)


def problems(name: str, text: str) -> Iterator[str]:
    """One line for every find: FILE:LINE: what it is, and the text found."""
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, what in FORBIDDEN:
            if found := pattern.search(line):
                yield f"{name}:{number}: {what}, which no tracked file may hold: {found.group()}"


def main() -> int:
    """Print what is wrong; 1 when something is."""
    found = []
    for path in tracked():
        data = (ROOT / path).read_bytes()
        if b"\0" not in data:
            found += problems(str(path), data.decode(errors="replace"))
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
