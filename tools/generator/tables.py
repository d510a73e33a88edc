"""Write the generated tables: walkers over domain handles, procedure rows, constants."""

from __future__ import annotations

import re
from typing import Any

from generator.code import Code
from generator.facts import SIZE, Facts, Kind, class_name, header

SPARSE_FLAG = 1
"""VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM and its twin for downloads."""


def tables(facts: Facts) -> dict[str, str]:
    """Return path -> text of the generated tables."""
    return {
        "walkers.py": walkers(facts),
        "procedures.py": procedures(facts),
        "constants.py": constants(facts),
    }


class Walker:
    """Writes a function that finds where the uuids of domain handles are, skipping all else."""

    def __init__(self, facts: Facts, code: Code) -> None:
        self.facts, self.code = facts, code
        self.pending = 0

    def holds(self, kind: Kind) -> bool:
        """Tell whether a domain handle is somewhere inside."""
        if kind.name == "remote_nonnull_domain":
            return True
        if kind.of is not None:
            return self.holds(kind.of)
        if kind.form == "struct" and isinstance(self.facts.types[kind.name], list):
            return any(self.holds(part) for _, part in self.facts.members(kind.name))
        return False

    def settle(self) -> None:
        """Write the moves over fixed members that are still owed."""
        if self.pending:
            self.code.add(f"pos += {self.pending}")
        self.pending = 0

    def word(self, name: str) -> None:
        """Read a count or flag into `name` and step over it."""
        where = f"pos + {self.pending}" if self.pending else "pos"
        self.code.add(f"({name},) = unpack_word(data, {where})")
        self.pending += 4

    def skip(self, kind: Kind) -> None:
        """Write the step over one value."""
        if kind.form == "fixed":
            self.pending += SIZE[kind.code]
        elif kind.form in ("string", "opaque"):
            self.word("n")
            self.code.add(f"pos += {self.pending} + ((n + 3) & -4)")
            self.pending = 0
        elif kind.form == "struct":
            self.skip_struct(kind)
        elif kind.form == "optional":
            self.word("n")
            self.settle()
            with self.code.block("if n:"):
                self.inside(kind.item())
        else:
            self.skip_array(kind)

    def inside(self, kind: Kind) -> None:
        self.skip(kind)
        self.settle()

    def skip_struct(self, kind: Kind) -> None:
        if "union" in self.facts.types[kind.name]:
            self.settle()
            self.code.add("pos = skip_value(data, pos)")
            return
        if kind.name == "remote_nonnull_domain":
            self.word("n")
            self.code.add(f"pos += {self.pending} + ((n + 3) & -4)", "at.append(pos)")
            self.pending = 20
            return
        for _, part in self.facts.members(kind.name):
            self.skip(part)

    def skip_array(self, kind: Kind) -> None:
        item = kind.of
        fixed = 4 if item is None else SIZE.get(item.code, 0)
        if kind.length is not None:
            self.pending += fixed * kind.length
            return
        count = self.code.fresh("n")
        self.word(count)
        if item is None or fixed:
            self.code.add(f"pos += {self.pending} + {count} * {fixed}")
            self.pending = 0
            return
        self.settle()
        with self.code.block(f"for _ in range({count}):"):
            self.inside(item)

    def write(self, name: str) -> None:
        """Write the body for one struct; it stops behind its last domain handle."""
        members = [kind for _, kind in self.facts.members(name)]
        while not self.holds(members[-1]):
            members.pop()
        self.code.depth = 1
        self.code.add("pos: int = 0")
        for kind in members:
            self.skip(kind)
        self.settle()
        self.code.add("return pos", "", "")


SKIP_VALUE = '''_VALUE_SIZE = {1: 8, 2: 8, 3: 12, 4: 12, 5: 12, 6: 8}


def skip_value(data: bytes, pos: int) -> int:
    """Step over a typed parameter's value."""
    kind, count = unpack_words(data, pos)
    if kind == 7:
        return int(pos + 8 + ((count + 3) & -4))
    size = _VALUE_SIZE.get(kind)
    if size is None:
        raise bad_type("RemoteTypedParamValue.type", kind)
    return pos + size

'''


def walkers(facts: Facts) -> str:
    """Return the module of walkers, one for each args, ret or msg that holds a domain handle."""
    bodies: dict[tuple[str, ...], str] = {}
    table: dict[str, str] = {}
    for row in facts.protocol["procedures"]:
        for name in filter(None, (row["args"], row["ret"], row["msg"])):
            code = Code()
            walker = Walker(facts, code)
            if walker.holds(facts.named(name)):
                walker.write(name)
                table[name] = bodies.setdefault(tuple(code.lines), name)
    functions = [
        line
        for body, name in bodies.items()
        for line in (f"def {name}(data: bytes, at: list[int]) -> int:", *body)
    ]
    lines = header("Where the domain handles of a payload are: each walker appends the offset of every uuid.")
    lines += ["from collections.abc import Callable", "from struct import Struct", ""]
    lines += ["from compat.libvirt.xdr import bad_type", ""]
    lines += ['unpack_word = Struct(">I").unpack_from', 'unpack_words = Struct(">II").unpack_from']
    lines += [*SKIP_VALUE.splitlines(), "", *functions]
    lines.append("WALKERS: dict[str, Callable[[bytes, list[int]], int]] = {")
    lines += [f'    "{class_name(name)}": {function},' for name, function in table.items()] + ["}"]
    return "\n".join(lines) + "\n"


ROW = (
    "program program_id number name kind args ret msg priority readstream writestream sparse acl aclfilter"
    " cls read_only args_begin_with domain_path args_handles ret_handles msg_handles tags newer stream fds"
)


def handles(rows: list[dict[str, str]]) -> tuple[tuple[tuple[str, ...], str], ...]:
    return tuple((tuple(row["path"].split(".")), row["kind"]) for row in rows)


def procedure(fact: dict[str, Any], cls: dict[str, Any], programs: dict[str, Any]) -> tuple[Any, ...]:
    """Return one row, in the order of ROW."""
    route = cls["route"] or {}
    domain = tuple(route["path"].split(".")) if route.get("by") == "domain" else None
    streams = fact["stream_by_hand"]
    return (
        fact["program"], programs[fact["program"]]["id"], fact["number"], fact["name"], fact["kind"],
        *(class_name(fact[part]) if fact[part] else None for part in ("args", "ret", "msg")),
        fact["priority"], bool(fact["readstream"]), bool(fact["writestream"]) or streams == "write",
        SPARSE_FLAG if fact["sparseflag"] else None, tuple(fact["acl"]), tuple(fact["aclfilter"]),
        cls["class"], cls.get("read_only"), cls["args_begin_with"], domain,
        *(handles(cls.get(f"{part}_handles", [])) for part in ("args", "ret", "msg")),
        tuple(cls.get("tags", ())), fact["since_newer_than_9_0"], cls.get("stream"),
        tuple(cls.get("fds", ())),
    )  # fmt: skip


def procedures(facts: Facts) -> str:
    """Return the module with a row for every procedure and the event tables."""
    programs = facts.protocol["programs"]
    by_key = {(row["program"], row["number"]): row for row in facts.classes["procedures"]}
    lines = header("Every procedure of libvirt's wire, as rows; compat.libvirt.schema makes them usable.")
    lines += [
        "from typing import Any",
        "",
        f"COLUMNS = {tuple(ROW.split())!r}",
        "",
        "ROWS: tuple[tuple[Any, ...], ...] = (",
    ]
    for row in facts.protocol["procedures"]:
        lines.append(f"    {procedure(row, by_key[row['program'], row['number']], programs)!r},")
    lines += [")", "", "# (object kind, register, deregister, legacy register, legacy deregister, events:"]
    lines += ["#  (id, id's name, message, number, legacy message, legacy number))"]
    lines.append("EVENT_ROWS: tuple[tuple[Any, ...], ...] = (")
    for kind, table in facts.protocol["events"].items():
        events = tuple(tuple(event.values()) for event in table["events"])
        legacy = (tuple(table.get(part, ())) for part in ("legacy_register", "legacy_deregister"))
        lines.append(f"    {(kind, table['register'], table['deregister'], *legacy, events)!r},")
    lines.append(")")
    return "\n".join(lines) + "\n"


def shortened(names: list[str]) -> dict[str, str]:
    """Return full name -> name without what all have in common; none begins with a digit."""
    words = [name.split("_") for name in names]
    common = 0
    if len(names) > 1:
        while all(len(w) > common + 1 and w[common] == words[0][common] for w in words):
            common += 1
        while any(w[common][0].isdigit() for w in words):
            common -= 1
    common = max(common, 1 if names[0].startswith("VIR_") else 0)
    return {name: "_".join(w[common:]) for name, w in zip(names, words, strict=True)}


def constants(facts: Facts) -> str:
    """Return the module of constants: a plain int by libvirt's own name, an IntEnum for each enumeration."""
    enums = {**facts.enums, **facts.protocol["enums"]}
    enums = {name: body for name, body in enums.items() if not name.endswith("_procedure")}
    enums["keepalive_procedure"] = facts.protocol["enums"]["keepalive_procedure"]
    lines = header(
        "Numbers of libvirt's wire and public API: plain ints by libvirt's names, and enumerations."
    )
    lines += ["from enum import IntEnum", "from typing import Final", ""]
    plain: dict[str, int] = dict(facts.protocol["consts"])
    for body in enums.values():
        plain.update(body)
    lines += [f"{name}: Final = {value}" for name, value in plain.items()]
    lines += ["", "PROGRAM_VERSIONS: Final = {"]
    lines += [
        f"    {row['id']}: {row['version']},  # {name}" for name, row in facts.protocol["programs"].items()
    ]
    lines += ["}", '"""Program -> the one version there is."""', "", ""]
    for name, body in sorted(enums.items()):
        lines.append(f"class {class_name(name)}(IntEnum):")
        lines += [f"    {short} = {body[full]}" for full, short in shortened(list(body)).items()]
        lines += ["", ""]
    text = "\n".join(lines).rstrip() + "\n"
    return re.sub(r"\n    None = ", "\n    NONE = ", text)
