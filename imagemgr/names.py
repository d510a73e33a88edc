"""Names, keys and paths of volumes: what may be one, which pool a path is in, `name@node` for clashes.  Pure.

Paths are only taken apart, never looked up: a symbolic link that leaves a pool is found by whoever opens it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from imagemgr.errors import NameRefused, PathRefused
from imagemgr.model import Pool

LONGEST = 255
"""Bytes of a file's name (Linux: NAME_MAX)."""

PRIVATE = ".clusterhost"
"""Where agents keep what is theirs in a pool; the leading dot keeps it apart from volumes."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def check_name(name: str) -> None:
    """Whether a new volume may have this name; NameRefused.

    libvirt refuses a slash only; the others would be hidden, ambiguous, or a directory."""
    if not name:
        raise NameRefused("the volume has no name")
    if "/" in name:
        raise NameRefused(f"volume name {name!r} cannot contain '/'")
    if name.startswith("."):
        raise NameRefused(f"volume name {name!r} cannot start with a dot")
    if _CONTROL.search(name):
        raise NameRefused(f"volume name {name!r} cannot contain control characters")
    size = len(name.encode("utf-8", "surrogateescape"))
    if size > LONGEST:
        raise NameRefused(f"volume name has {size} bytes, {LONGEST} are allowed")


def is_volume(name: str) -> bool:
    """Whether a file of this name in a pool may be a volume of the cluster."""
    try:
        check_name(name)
    except NameRefused:
        return False
    return True


def sanitized(path: str) -> str:
    """A path as libvirt keeps it: runs of slashes are one, none at the end.

    Two at the beginning stay (POSIX lets them mean something else), and so does a URI."""
    uri = path.find("://")
    if uri >= 0 and path.index("/") > uri:
        return path
    leading = "//" if path.startswith("//") and not path.startswith("///") else ""
    rest = re.sub("/+", "/", path[len(leading) :])
    if len(rest) + len(leading) > 1 and rest.endswith("/"):
        rest = rest[:-1]
    return leading + rest


def normal(path: str) -> str:
    """An absolute path without `.`, `..` and doubled slashes, also at its beginning; PathRefused."""
    if not path.startswith("/"):
        raise PathRefused(f"path {path!r} is not absolute")
    if _CONTROL.search(path):
        raise PathRefused(f"path {path!r} has control characters in it")
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def path_of(directory: str, name: str) -> str:
    """The path, which is the key too, of a volume in a pool's directory; NameRefused."""
    check_name(name)
    return f"{directory.rstrip('/')}/{name}"


def inside(directory: str, path: str) -> str | None:
    """What is left of a path below a directory, "" for the directory itself; None outside.  PathRefused."""
    above, below = normal(directory), normal(path)
    if above == below:
        return ""
    prefix = above if above == "/" else above + "/"
    return below.removeprefix(prefix) if below.startswith(prefix) else None


def name_in(directory: str, path: str) -> str | None:
    """The name of the volume that a path is in a pool's directory; None where it can be none of its volumes."""
    try:
        name = inside(directory, path)
    except PathRefused:
        return None
    return name if name and is_volume(name) else None


def pool_of(path: str, pools: Iterable[Pool]) -> tuple[Pool, str] | None:
    """The pool whose volume a path may be, and the volume's name; where pools are nested, the innermost."""
    found = [(pool, name) for pool in pools if (name := name_in(pool.target.path or "-", path)) is not None]
    return max(found, key=lambda item: len(normal(item[0].target.path)), default=None)


def resolved(directory: str, reference: str) -> str:
    """Where a backing file's path leads that an image in a directory says; PathRefused where it leaves it."""
    path = reference if reference.startswith("/") else f"{directory}/{reference}"
    if not inside(directory, path):
        raise PathRefused(f"path {reference!r} leaves the pool's directory {directory}")
    return normal(path)


def at_node(name: str, node: str) -> str:
    """How a volume is shown whose name has other content on another node."""
    return f"{name}@{node}"


def apart(shown: str) -> tuple[str, str]:
    """Name and node of what `at_node` made; the node is "" without a sign.  The last sign counts."""
    name, sign, node = shown.rpartition("@")
    return (name, node) if sign and name and node else (shown, "")
