"""Check that generated files are fresh: runs each tools/generate_*.py with --check."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    """`--write` generates anew instead of checking; 1 when a generator fails or a file is stale."""
    options = [] if "--write" in arguments else ["--check"]
    tools = Path(__file__).resolve().parent
    failed = [
        generator.name
        for generator in sorted(tools.glob("generate_*.py"))
        if subprocess.run([sys.executable, str(generator), *options], cwd=tools.parent).returncode
    ]
    if failed:
        print(
            f"generated files are not fresh ({', '.join(failed)}): run make generate and commit",
            file=sys.stderr,
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
