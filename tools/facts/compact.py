"""Copy the protocol facts into the tree, one type or procedure a line, so that a diff can be read.

Usage: python tools/facts/compact.py PROTOCOL_JSON CLASSES_JSON
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def compact(value: Any) -> str:
    """Return JSON text where each member of a top-level object or list stands on a line of its own."""
    lines = []
    for key, part in value.items():
        if isinstance(part, list):
            body = ",\n".join(json.dumps(item) for item in part)
            lines.append(f"{json.dumps(key)}: [\n{body}\n]")
        elif part and key != "meta":
            body = ",\n".join(f"{json.dumps(name)}: {json.dumps(item)}" for name, item in part.items())
            lines.append(f"{json.dumps(key)}: {{\n{body}\n}}")
        else:
            lines.append(f"{json.dumps(key)}: {json.dumps(part)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    for source, name in zip(sys.argv[1:3], ("protocol.json", "classes.json"), strict=True):
        (HERE / name).write_text(compact(json.loads(Path(source).read_text())))


if __name__ == "__main__":
    main()
