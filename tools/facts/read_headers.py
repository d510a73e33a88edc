"""Read the enumerations of libvirt's public headers (names and numbers only) into enums.json.

Usage: python tools/facts/read_headers.py [/usr/include/libvirt]
Run it on a machine with libvirt-dev; the result is kept in the tree.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
FILES = ("common", "host", "domain", "domain-snapshot", "domain-checkpoint", "network", "storage", "nodedev")
FILES += ("secret", "interface", "stream", "nwfilter", "qemu")
ENUM = re.compile(r"typedef\s+enum\s*\{(.*?)\}\s*(\w+)\s*;", re.S)
MACRO = re.compile(r"^#\s*define\s+(VIR_\w+)\s+(\d+|0x[0-9a-fA-F]+|\(?-?\d+\)?)\s*$", re.M)


def evaluate(expression: str, known: dict[str, int]) -> int:
    """Evaluate a C constant expression of numbers, earlier names, shifts, ors and signs."""
    text = re.sub(r"(?<=\d)[uUlL]+\b", "", expression)
    tree = ast.parse(text.strip(), mode="eval")
    return int(eval(compile(tree, "header", "eval"), {"__builtins__": {}}, known))


def members(body: str, known: dict[str, int]) -> dict[str, int]:
    """Return the members of one enum body; sentinels (_LAST) are left out."""
    found: dict[str, int] = {}
    value = -1
    for part in body.split(","):
        name, _, expression = (piece.strip() for piece in part.partition("="))
        if not name:
            continue
        value = evaluate(expression, known) if expression else value + 1
        known[name] = value
        if not name.endswith("_LAST"):
            found[name] = value
    return found


def read(folder: Path) -> dict[str, dict[str, int]]:
    """Return every enumeration of the headers in `folder`."""
    enums: dict[str, dict[str, int]] = {}
    known: dict[str, int] = {}
    for name in FILES:
        text = (folder / f"libvirt-{name}.h").read_text()
        text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
        text = re.sub(r"VIR_DEPRECATED\w*", "", text)
        for macro, number in MACRO.findall(text):
            known[macro] = int(number.strip("()"), 0)
        plain = re.sub(r"^#.*?$", "", text, flags=re.M)
        for body, enum in ENUM.findall(plain):
            enums[enum] = members(body, known)
    return enums


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "/usr/include/libvirt")
    enums = read(folder)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(enums[name])}" for name in sorted(enums))
    (HERE / "enums.json").write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
