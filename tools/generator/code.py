"""Writers of straight-line packing and unpacking code."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from generator.facts import SIZE, Kind

SHORT_CODE = {"3xB": "C", "2xH": "H", "3xb": "c", "16s": "u"}


@dataclass
class Code:
    """Lines of Python being written, and what they need from elsewhere."""

    lines: list[str] = field(default_factory=list)
    depth: int = 0
    formats: dict[str, str] = field(default_factory=dict)
    uses: set[str] = field(default_factory=set)
    counter: int = 0

    def add(self, *lines: str) -> None:
        for line in lines:
            self.lines.append("    " * self.depth + line if line else "")
            self.uses.update(re.findall(r"\b(over|inexact|bad_type|widen|PAD|Any|pack|unpack_from)\b", line))

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        self.add(head)
        self.depth += 1
        yield
        self.depth -= 1

    def fresh(self, letter: str) -> str:
        self.counter += 1
        return f"{letter}{self.counter}"

    def format(self, codes: Iterable[str]) -> str:
        """Return the suffix of the pack_/unpack_ pair for these struct codes."""
        codes = list(codes)
        letters = "".join(SHORT_CODE.get(code, code) for code in codes)
        suffix = re.sub(r"(.)\1+", lambda run: f"{run[1]}{len(run[0])}", letters)
        self.formats[suffix] = ">" + "".join(codes)
        return suffix


class Packer:
    """Writes the body of one `_pack`."""

    def __init__(self, code: Code, owner: str) -> None:
        self.code, self.owner = code, owner
        self.run: list[tuple[str, str]] = []
        self.parts: list[str] = []

    def end_run(self) -> None:
        if self.run:
            suffix = self.code.format(code for code, _ in self.run)
            self.parts.append(f"pack_{suffix}({', '.join(value for _, value in self.run)})")
        self.run = []

    def flush(self) -> None:
        self.end_run()
        if len(self.parts) == 1:
            self.code.add(f"out.append({self.parts[0]})")
        elif self.parts:
            self.code.add(f"out += ({', '.join(self.parts)})")
        self.parts = []

    def pack(self, kind: Kind, value: str, label: str) -> None:
        getattr(self, "pack_" + kind.form)(kind, value, f'"{self.owner}.{label}"', label)

    def pack_fixed(self, kind: Kind, value: str, where: str, label: str) -> None:
        if kind.code == "16s":
            name = self.code.fresh("v")
            self.code.add(f"{name} = {value}")
            self.check(f"len({name}) != 16", f"inexact({where}, len({name}), 16)")
            value = name
        self.run.append((kind.code, value))

    def check(self, condition: str, error: str) -> None:
        with self.code.block(f"if {condition}:"):
            self.code.add(f"raise {error}")

    def pack_string(self, kind: Kind, value: str, where: str, label: str) -> None:
        self.body(f'{value}.encode("utf-8", "surrogateescape")', kind, where)

    def pack_opaque(self, kind: Kind, value: str, where: str, label: str) -> None:
        self.body(value, kind, where)

    def body(self, value: str, kind: Kind, where: str) -> None:
        name, count = self.counted(value, kind, where)
        self.end_run()
        self.parts += [name, f"PAD[{count} & 3]"]

    def counted(self, value: str, kind: Kind, where: str) -> tuple[str, str]:
        """Take a sized value into a variable, check its size; a variable one also sends its count."""
        name, count = self.code.fresh("v"), self.code.fresh("n")
        self.code.add(f"{name} = {value}", f"{count} = len({name})")
        if kind.length is not None:
            self.check(f"{count} != {kind.length}", f"inexact({where}, {count}, {kind.length})")
        else:
            self.check(f"{count} > {kind.limit}", f"over({where}, {count}, {kind.limit})")
            self.run.append(("I", count))
        return name, count

    def pack_chars(self, kind: Kind, value: str, where: str, label: str) -> None:
        name, _ = self.counted(value, kind, where)
        self.end_run()
        self.parts.append(f"widen({name})")

    def pack_struct(self, kind: Kind, value: str, where: str, label: str) -> None:
        self.flush()
        self.code.add(f"{value}._pack(out)")

    def pack_optional(self, kind: Kind, value: str, where: str, label: str) -> None:
        name = self.code.fresh("v")
        before, self.run = self.run, []
        self.flush()
        self.code.add(f"{name} = {value}")
        with self.code.block(f"if {name} is None:"):
            self.run = [*before, ("I", "0")]
            self.flush()
        with self.code.block("else:"):
            self.run = [*before, ("I", "1")]
            self.pack(kind.item(), name, label)
            self.flush()

    def pack_array(self, kind: Kind, value: str, where: str, label: str) -> None:
        name, count = self.counted(value, kind, where)
        inner = kind.item()
        if inner.form == "fixed":
            self.end_run()
            self.parts.append(f'pack(f">{{{count}}}{inner.code}", *{name})')
            return
        self.flush()
        item = self.code.fresh("i")
        with self.code.block(f"for {item} in {name}:"):
            self.pack(inner, item, label)
            self.flush()


class Unpacker:
    """Writes the body of one `_unpack`."""

    def __init__(self, code: Code, owner: str) -> None:
        self.code, self.owner = code, owner
        self.run: list[tuple[str, str]] = []

    def flush(self) -> None:
        if not self.run:
            return
        names = ", ".join(name for _, name in self.run)
        target = f"({names},)" if len(self.run) == 1 else names
        suffix = self.code.format(code for code, _ in self.run)
        self.code.add(f"{target} = unpack_{suffix}(data, pos)")
        self.code.add(f"pos += {sum(SIZE[code] for code, _ in self.run)}")
        self.run = []

    def unpack(self, kind: Kind, target: str, label: str) -> None:
        getattr(self, "unpack_" + kind.form)(kind, target, f'"{self.owner}.{label}"', label)

    def unpack_fixed(self, kind: Kind, target: str, where: str, label: str) -> None:
        self.run.append((kind.code, target))

    def count(self, kind: Kind, where: str) -> str:
        if kind.length is not None:
            self.flush()
            return str(kind.length)
        count = self.code.fresh("n")
        self.run.append(("I", count))
        self.flush()
        with self.code.block(f"if {count} > {kind.limit}:"):
            self.code.add(f"raise over({where}, {count}, {kind.limit})")
        return count

    def unpack_string(self, kind: Kind, target: str, where: str, label: str) -> None:
        count = self.count(kind, where)
        self.code.add(f'{target} = data[pos : pos + {count}].decode("utf-8", "surrogateescape")')
        self.code.add(f"pos += ({count} + 3) & -4")

    def unpack_opaque(self, kind: Kind, target: str, where: str, label: str) -> None:
        count = self.count(kind, where)
        self.code.add(f"{target} = data[pos : pos + {count}]", f"pos += ({count} + 3) & -4")

    def unpack_chars(self, kind: Kind, target: str, where: str, label: str) -> None:
        count = self.count(kind, where)
        # The low byte of each 4-byte integer.
        self.code.add(f"{target} = data[pos + 3 : pos + {count} * 4 : 4]", f"pos += {count} * 4")

    def unpack_struct(self, kind: Kind, target: str, where: str, label: str) -> None:
        self.flush()
        self.code.add(f"{target}, pos = {kind.python}._unpack(data, pos)")

    def unpack_optional(self, kind: Kind, target: str, where: str, label: str) -> None:
        flag = self.code.fresh("f")
        self.run.append(("I", flag))
        self.flush()
        self.code.add(f"{target}: {kind.python} = None")
        with self.code.block(f"if {flag}:"):
            self.unpack(kind.item(), target, label)
            self.flush()

    def unpack_array(self, kind: Kind, target: str, where: str, label: str) -> None:
        count = self.count(kind, where)
        inner = kind.item()
        if inner.form == "fixed":
            self.code.add(f'{target} = list(unpack_from(f">{{{count}}}{inner.code}", data, pos))')
            self.code.add(f"pos += {count} * {SIZE[inner.code]}")
            return
        self.code.add(f"{target}: {kind.python} = []")
        item = self.code.fresh("i")
        with self.code.block(f"for _ in range({count}):"):
            self.unpack(inner, item, label)
            self.flush()
            self.code.add(f"{target}.append({item})")
