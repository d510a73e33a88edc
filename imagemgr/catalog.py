"""What nodes list in a pool, made one namespace: adopted, gone, clashing, incomplete.  Pure.

What is known of a copy's content is not asked again: a listing that says a digest says it of files that are new.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace

from imagemgr.model import Copy, CopyState, Held
from imagemgr.names import at_node, is_volume


@dataclass(frozen=True, slots=True)
class Listed:
    """A file that a node lists.  digest: of its manifest, b"" where nobody has read it."""

    name: str
    capacity: int = 0
    allocation: int = 0
    digest: bytes = b""


Listings = Mapping[str, Iterable[Listed]]
"""By node; one that is away is not in it."""

Place = tuple[str, str]
"""A volume's name and a node."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """The namespace, in the order of what is shown, and what was found on the way.

    adopted: new files, by what they are shown as; gone: copies whose file is no more; clashing: what is shown under
    another name than its own; incomplete: files that are not all there, so not shown; ignored: no volumes."""

    volumes: tuple[Held, ...] = ()
    adopted: tuple[Place, ...] = ()
    gone: tuple[Place, ...] = ()
    incomplete: tuple[Place, ...] = ()
    ignored: tuple[Place, ...] = ()

    @property
    def listed(self) -> tuple[Held, ...]:
        """What clients see."""
        return tuple(volume for volume in self.volumes if volume.is_listed)

    @property
    def clashing(self) -> tuple[Held, ...]:
        """Those with a name of which there is another."""
        return tuple(volume for volume in self.volumes if volume.shown != volume.name)


@dataclass(slots=True)
class _Work:
    """A catalog being made.  named: what volumes of a name are shown as; taken: what others are, of other names."""

    volumes: dict[str, Held]
    taken: Container[str] = ()
    named: dict[str, set[str]] = field(default_factory=dict)
    gone: list[Place] = field(default_factory=list)
    incomplete: list[Place] = field(default_factory=list)
    ignored: list[Place] = field(default_factory=list)
    new: list[tuple[str, Listed]] = field(default_factory=list)


def catalog(known: Iterable[Held], listings: Listings, taken: Container[str] = ()) -> Catalog:
    """The namespace of what is known and what nodes list now; or all of it that is about some names of files, when only
    these are in both.  taken: what volumes with other names of files are shown as, which are as they were.

    Files that are new join a volume of their name when they are known to have its content, else they become one:
    the first, by its node's name, under its own name, the others as name@node.  What is shown once keeps its name."""
    work = _Work({volume.shown: volume for volume in known}, taken)
    found = _take_listings(work, listings)
    for volume in list(work.volumes.values()):
        _follow(work, volume, listings, found)
    for volume in work.volumes.values():
        work.named.setdefault(volume.name, set()).add(volume.shown)
    awaited = {file.name for _, file in work.new}
    adopted = [_adopt(work, awaited, node, file) for node, file in sorted(work.new, key=lambda item: item[0])]
    return Catalog(
        tuple(volume for _, volume in sorted(work.volumes.items())),
        tuple(sorted(adopted)),
        tuple(sorted(work.gone)),
        tuple(sorted(work.incomplete)),
        tuple(sorted(work.ignored)),
    )


def one_place(listings: Listings) -> dict[str, tuple[Listed, ...]]:
    """The listings of a shared pool, where every node sees the same files: one, of no node in particular.

    A file that only some nodes list is there: they have looked later."""
    files = {file.name: file for _, listed in sorted(listings.items(), reverse=True) for file in listed}
    return {"": tuple(file for _, file in sorted(files.items()))} if listings else {}


def _take_listings(work: _Work, listings: Listings) -> dict[Place, Listed]:
    """Files by place; those that no copy is known of are noted as new."""
    copies = {(volume.name, copy.node) for volume in work.volumes.values() for copy in volume.copies}
    found: dict[Place, Listed] = {}
    for node, files in listings.items():
        for file in sorted(files, key=lambda file: file.name):
            place = (file.name, node)
            if not is_volume(file.name):
                work.ignored.append(place)
                continue
            if place not in copies and place not in found:
                work.new.append((node, file))
            found[place] = file
    return found


def _follow(work: _Work, volume: Held, listings: Listings, found: Mapping[Place, Listed]) -> None:
    """Bring the copies of a known volume up to date; without any left, it is no more."""
    copies = []
    for copy in volume.copies:
        file = found.get((volume.name, copy.node))
        if copy.state is CopyState.COMING:
            copies.append(copy)
            if file is not None:
                work.incomplete.append((volume.name, copy.node))
        elif copy.node not in listings:
            copies.append(_away(copy))
        elif file is not None:
            copies.append(_present(volume, copy, file))
        else:
            work.gone.append((volume.shown, copy.node))
    if copies:
        work.volumes[volume.shown] = replace(volume, copies=tuple(copies))
    else:
        del work.volumes[volume.shown]


def _away(copy: Copy) -> Copy:
    return replace(copy, state=CopyState.LOST) if copy.state is CopyState.WHOLE else copy


def _present(volume: Held, copy: Copy, file: Listed) -> Copy:
    current = copy.state is not CopyState.STALE and copy.generation == volume.generation
    state = CopyState.WHOLE if current else CopyState.STALE
    return replace(copy, state=state, capacity=file.capacity, allocation=file.allocation)


def _adopt(work: _Work, awaited: set[str], node: str, file: Listed) -> Place:
    """Take a new file in: as a copy of a volume that there is, or as a volume; return what it is shown as.

    awaited: names of all new files.  One that has yet to be taken in has a better right to its name than name@node."""
    copy = Copy(node, CopyState.WHOLE, 0, file.digest, file.capacity, file.allocation)
    for volume in (work.volumes[shown] for shown in sorted(work.named.get(file.name, ()))):
        if _has_content(volume, file.digest):
            copies = (*volume.copies, replace(copy, generation=volume.generation))
            ordered = tuple(sorted(copies, key=lambda one: one.node))
            work.volumes[volume.shown] = replace(volume, copies=ordered)
            return volume.shown, node
    shown = file.name
    while shown in work.volumes or shown in work.taken or (shown != file.name and shown in awaited):
        shown = at_node(shown, node)
    work.volumes[shown] = Held(file.name, shown, 0, (copy,))
    work.named.setdefault(file.name, set()).add(shown)
    return shown, node


def _has_content(volume: Held, digest: bytes) -> bool:
    if not digest:
        return False
    return any(copy.digest == digest and copy.generation == volume.generation for copy in volume.copies)
