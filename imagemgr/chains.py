"""Backing chains: what an image is made of, and what of that cannot be carried along or trusted.  Pure.

A format is never guessed: below an image that does not say what its backing file is, nothing is looked at, as a guest
could have written it.  Paths are taken apart only; a symbolic link is for whoever opens it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from posixpath import dirname

from imagemgr.errors import ConfigUnsupported, FormatDiffers, HeaderDamaged, PathRefused
from imagemgr.formats import FORMATS, RAW
from imagemgr.header import Backing, Header
from imagemgr.names import normal, resolved

DEEPEST = 200
"""Images of a chain (libvirt's limit)."""

Look = Callable[[str, str], Header]
"""Path and the format that it is said to have -> what formats.check says; OSError where it cannot be read."""

_PROTOCOL = re.compile(r"[^/:]*:")
"""What QEMU takes for anything but a path: a colon before the first slash."""


class Kind(StrEnum):
    """What is wrong: DEEP, CYCLE, LEAVES the directory, REMOTE (json:, nbd: and their like), UNSAID: no format is said;
    DIFFERS from the format that is; UNKNOWN format; DAMAGED header, UNREADABLE file, PARTS in other files, UNUSABLE by
    its own word."""

    DEEP = "deep"
    CYCLE = "cycle"
    LEAVES = "leaves"
    REMOTE = "remote"
    UNSAID = "unsaid"
    DIFFERS = "differs"
    UNKNOWN = "unknown"
    DAMAGED = "damaged"
    UNREADABLE = "unreadable"
    PARTS = "parts"
    UNUSABLE = "unusable"


@dataclass(frozen=True, slots=True)
class Problem:
    """A sentence about an image of a chain, by its path."""

    kind: Kind
    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Link:
    """An image of a chain: an absolute path without dots in it."""

    path: str
    header: Header


@dataclass(frozen=True, slots=True)
class Chain:
    """From the image itself down to its base.  With problems it may end too early."""

    links: tuple[Link, ...]
    problems: tuple[Problem, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """All files."""
        return tuple(link.path for link in self.links)


class _Ended(Exception):
    """A problem below which nothing is looked at."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.text)
        self.problem = problem


def chain(path: str, declared: str, look: Look, directory: str = "", deepest: int = DEEPEST) -> Chain:
    """The chain of an image of a declared format.

    directory: what nothing of it may leave, "" for anywhere; deepest: the most images.  PathRefused where the path of
    the image itself is none."""
    links: list[Link] = []
    problems: list[Problem] = []
    above, reference = "", Backing(path, declared)
    try:
        while True:
            here = normal(path) if not links else _below(above, reference, directory)
            _check_place(here, [link.path for link in links], deepest)
            header = _looked(look, here, reference.format)
            links.append(Link(here, header))
            problems += _doubts(links[-1])
            if header.backing is None:
                break
            above, reference = here, header.backing
    except _Ended as ended:
        problems.append(ended.problem)
    return Chain(tuple(links), tuple(problems))


def _below(above: str, backing: Backing, directory: str) -> str:
    """Where the backing file of an image is."""
    name = backing.name
    if _PROTOCOL.match(name):
        text = f"its backing file {name!r} is no path; it must be one"
        raise _Ended(Problem(Kind.REMOTE, above, text))
    if not backing.format:
        text = f"it does not say which format its backing file {name!r} has, and that is not guessed"
        raise _Ended(Problem(Kind.UNSAID, above, text))
    if backing.format != RAW and backing.format not in FORMATS:
        text = f"it says that its backing file {name!r} has format {backing.format!r}, which is not known"
        raise _Ended(Problem(Kind.UNKNOWN, above, text))
    try:
        path = normal(name if name.startswith("/") else f"{dirname(above)}/{name}")
        return resolved(directory, path) if directory else path
    except PathRefused as error:
        raise _Ended(Problem(Kind.LEAVES, above, f"its backing file: {error}")) from error


def _check_place(path: str, seen: list[str], deepest: int) -> None:
    if path in seen:
        text = f"it is its own backing file, {len(seen) - seen.index(path)} images further up"
        raise _Ended(Problem(Kind.CYCLE, path, text))
    if len(seen) >= deepest:
        raise _Ended(Problem(Kind.DEEP, path, f"the chain has more than {deepest} images"))


def _looked(look: Look, path: str, declared: str) -> Header:
    try:
        return look(path, declared)
    except FormatDiffers as error:
        raise _Ended(Problem(Kind.DIFFERS, path, str(error))) from error
    except ConfigUnsupported as error:
        raise _Ended(Problem(Kind.UNKNOWN, path, str(error))) from error
    except HeaderDamaged as error:
        raise _Ended(Problem(Kind.DAMAGED, path, str(error))) from error
    except OSError as error:
        text = f"it cannot be read: {error.strerror or error}"
        raise _Ended(Problem(Kind.UNREADABLE, path, text)) from error


def _doubts(link: Link) -> Iterator[Problem]:
    for doubt in link.header.doubts:
        yield Problem(Kind.UNUSABLE, link.path, doubt)
    for part in link.header.parts:
        text = (
            f"its data is in another file, {part!r}"
            if part
            else "its data is in a file that it does not name"
        )
        yield Problem(Kind.PARTS, link.path, text)
