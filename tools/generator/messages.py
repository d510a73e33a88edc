"""Write the modules of message classes."""

from __future__ import annotations

import re

from generator.code import Code, Packer, Unpacker
from generator.facts import Facts, class_name, header


def write_struct(facts: Facts, name: str, code: Code) -> None:
    """Write the class of one struct."""
    owner, members = class_name(name), facts.members(name)
    codes = [f"{label}:{kind.code}" for label, kind in members if kind.python == "int"]
    codes += [
        f"{label}:{kind.item().code}"
        for label, kind in members
        if kind.form == "array" and kind.item().python == "int"
    ]
    with code.block(f"class {owner}(Message, frozen=True):"):
        if codes:
            code.add(f'CODES: ClassVar[str] = "{" ".join(codes)}"')
        code.add(*(f"{label}: {kind.python}" for label, kind in members), "")
        code.counter = 0
        with code.block("def _pack(self, out: list[bytes]) -> None:"):
            packer = Packer(code, owner)
            for label, kind in members:
                packer.pack(kind, f"self.{label}", label)
            packer.flush()
        code.add("")
        code.counter = 0
        with code.block("@classmethod\n    def _unpack(cls, data: bytes, pos: int) -> tuple[Self, int]:"):
            unpacker = Unpacker(code, owner)
            names = []
            for index, (label, kind) in enumerate(members):
                names.append(f"v{index}")
                unpacker.unpack(kind, names[-1], label)
            unpacker.flush()
            code.add(f"return cls({', '.join(names)}), pos")
    code.add("", "")


UNION = '''class {owner}(Message, frozen=True):
    """type 1 int, 2 uint, 3 llong, 4 ullong, 5 double, 6 boolean (0 or 1), 7 string; value fits the type."""

    type: int
    value: int | float | str

    def _pack(self, out: list[bytes]) -> None:
        kind = self.type
        value: Any = self.value
        if kind == 7:
            body = value.encode("utf-8", "surrogateescape")
            count = len(body)
            if count > {limit}:
                raise over("{owner}.value", count, {limit})
            out += (pack_I2(7, count), body, PAD[count & 3])
            return
        pack_arm = _PACK_ARM.get(kind)
        if pack_arm is None:
            raise bad_type("{owner}.type", kind)
        out.append(pack_arm(kind, value))

    @classmethod
    def _unpack(cls, data: bytes, pos: int) -> tuple[Self, int]:
        kind, word = unpack_iI(data, pos)
        if kind == 7:
            if word > {limit}:
                raise over("{owner}.value", word, {limit})
            pos += 8
            text = data[pos : pos + word].decode("utf-8", "surrogateescape")
            return cls(7, text), pos + ((word + 3) & -4)
        if kind == 2:
            return cls(2, word), pos + 8
        arm = _UNPACK_ARM.get(kind)
        if arm is None:
            raise bad_type("{owner}.type", kind)
        unpack_arm, size = arm
        return cls(kind, unpack_arm(data, pos + 4)[0]), pos + size


_PACK_ARM = {{1: pack_i2, 2: pack_iI, 3: pack_iq, 4: pack_iQ, 5: pack_id, 6: pack_i2}}
_UNPACK_ARM = {{1: (unpack_i, 8), 3: (unpack_q, 12), 4: (unpack_Q, 12), 5: (unpack_d, 12), 6: (unpack_i, 8)}}
'''


def write_union(facts: Facts, name: str, code: Code) -> None:
    """Write the class of a typed parameter's value, the only union there is; another shape is refused."""
    arms = [(case["value"], facts.resolve(case["type"])) for case in facts.types[name]["union"]["cases"]]
    if [kind.code for _, kind in arms] != ["i", "I", "q", "Q", "d", "i", ""] or arms[6][1].form != "string":
        raise ValueError(f"{name} is not a typed parameter's value")
    for codes in (("i", "i"), ("i", "I"), ("i", "q"), ("i", "Q"), ("i", "d"), ("I", "I"), "i", "q", "Q", "d"):
        code.format(codes)
    text = UNION.format(owner=class_name(name), limit=arms[6][1].limit)
    code.add(*text.splitlines(), "", "")


def write_module(facts: Facts, module: str, names: list[str]) -> str:
    """Return the text of one module of message classes."""
    code, aliases = Code(), []
    for name in names:
        body = facts.types[name]
        if "typedef" in body:
            aliases.append((class_name(name), facts.named(name).python))
        elif "union" in body:
            write_union(facts, name, code)
        else:
            write_struct(facts, name, code)
    own = {class_name(name) for name in names}
    text = "\n".join(code.lines)
    lines = header(f"Messages of libvirt's wire: {module.replace('_', ' ')}.")
    typing = ["ClassVar"] * ("ClassVar" in text) + ["Any"] * (" Any" in text) + ["Self"]
    typing += ["TypeAlias"] * bool(aliases)
    lines += [f"from struct import {', '.join(sorted({'Struct'} | (code.uses & {'pack', 'unpack_from'})))}"]
    lines += [f"from typing import {', '.join(sorted(typing))}", ""]
    for other in sorted({facts.module(name) for name in facts.types} - {module}):
        theirs = [class_name(name) for name in facts.types if facts.module(name) == other]
        wanted = [name for name in theirs if re.search(rf"\b{name}\b", text) and name not in own]
        if wanted:
            lines.append(f"from compat.libvirt.messages.{other} import {', '.join(wanted)}")
    helpers = sorted({"Message"} | (code.uses & {"over", "inexact", "bad_type", "widen", "PAD"}))
    lines += [f"from compat.libvirt.xdr import {', '.join(helpers)}", ""]
    for suffix, format_ in sorted(code.formats.items()):
        lines.append(f'_s = Struct("{format_}")')
        lines += [f"pack_{suffix} = _s.pack"] * (f"pack_{suffix}(" in text or "_PACK_ARM" in text)
        lines += [f"unpack_{suffix} = _s.unpack_from"]
    lines += ["", "", *code.lines]
    lines += [f"{name}: TypeAlias = {python}" for name, python in aliases]
    return "\n".join(lines).rstrip() + "\n"


LAZY = '''_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    """Load the module that has this class (750 classes take time that most processes need not spend)."""
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = found
    return found
'''


def messages(facts: Facts) -> dict[str, str]:
    """Return path -> text of every module of messages and of the package's face."""
    groups: dict[str, list[str]] = {}
    for name in facts.types:
        groups.setdefault(facts.module(name), []).append(name)
    files = {f"messages/{module}.py": write_module(facts, module, names) for module, names in groups.items()}
    lines = header(
        "Every message of libvirt's wire, by its class; a module is loaded when one of its own is asked for."
    )
    lines += [
        "from importlib import import_module",
        "from typing import TYPE_CHECKING, Any",
        "",
        "if TYPE_CHECKING:",
    ]
    for module, names in sorted(groups.items()):
        lines.append(f"    from compat.libvirt.messages.{module} import (")
        lines += [f"        {class_name(name)}," for name in names] + ["    )"]
    lines += ["", "__all__ = [", *(f'    "{class_name(name)}",' for name in sorted(facts.types)), "]", ""]
    lines += ["_MODULES = {"]
    for module, names in sorted(groups.items()):
        lines.append(f'    "{module}": "{" ".join(class_name(name) for name in names)}",')
    lines += ["}", *LAZY.splitlines()]
    files["messages/__init__.py"] = "\n".join(lines) + "\n"
    return files
