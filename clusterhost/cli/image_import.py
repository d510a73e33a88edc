"""`clusterhost image import`: a file or URL becomes a volume, by the way that any client of libvirt has."""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol
from xml.sax.saxutils import escape

import click

from clusterhost.cli import output
from clusterhost.cli.client import ask
from clusterhost.cli.errors import USAGE, Failure

if TYPE_CHECKING:
    from clusterhost.cli.image_source import Source
    from clusterhost.cli.image_upload import Endpoint
    from compat.libvirt.messages import RemoteNonnullStorageVol
    from imagemgr.header import Header

LENGTHS = {"sha256": 64, "sha512": 128, "blake3": 64}
"""Hexadecimal digits of a checksum."""
VOLUME = """<volume>
  <name>{name}</name>
  <capacity>{size}</capacity>
  <allocation>0</allocation>
  <target><format type='raw'/></target>
</volume>"""
ZEROS = bytes(128 * 1024)
"""A block of any source's size."""
PAGE = 4096
"""Bytes, of which file systems make holes."""
EXISTS = 90
"""VIR_ERR_STORAGE_VOL_EXIST"""
Tell = Callable[[int, int, str], None]


class Hash(Protocol):
    """hashlib's and blake3's."""

    def update(self, data: bytes, /) -> object: ...
    def hexdigest(self) -> str: ...


@click.command("import")
@click.argument("given", metavar="FILE|URL")
@click.option("--pool", metavar="POOL", default="default", show_default=True, help="Where it goes.")
@click.option("--name", metavar="NAME", help="What it is called there [default: the last part of its path].")
@click.option("--checksum", metavar="KIND:HEX", help="What it must have: sha256, sha512 or blake3.")
@click.option(
    "--format", "declared", metavar="FORMAT", help="What it is said to be [default: what it begins like]."
)
@click.option("--json", "as_json", is_flag=True, help="Say what came of it as JSON.")
@output.admin_options
def import_(
    given: str, pool: str, name: str | None, checksum: str | None, declared: str | None, as_json: bool
) -> None:
    """Make FILE, or what is at URL (http, https, file), a volume of a pool.

    It is no volume before all of it is there and its checksum is right.  A connection that breaks is taken up; the
    same command again goes on with a volume that an earlier one left incomplete, from its beginning.
    """
    from clusterhost.cli.image_source import opened

    kind, wanted = _checksum(checksum)
    with contextlib.closing(opened(given, holes=not kind)) as source:
        shown = name or source.name
        _check_name(shown)
        told = ask("image.endpoint", pool=pool)
        header = _checked(source, given, declared, told)
        with output.progress_bar(f"import {shown}") as progress:
            found = _send(source, shown, told, (kind, wanted), progress)
    answer = {
        "name": shown,
        "pool": told["pool"],
        "format": header.format,
        "virtual_bytes": header.capacity,
        "size_bytes": source.size,
        "sent_bytes": found["sent"],
        "checksum": found["checksum"],
    }
    if as_json:
        output.one(answer, "json")
    else:
        click.echo(
            f"{shown} is in pool {told['pool']}: {header.format}, {output.text('size_bytes', source.size)}"
        )


def _checksum(given: str | None) -> tuple[str, str]:
    if given is None:
        return "", ""
    kind, _, digits = given.partition(":")
    if kind not in LENGTHS:
        raise Failure(f"checksum '{given}' is not one of {', '.join(LENGTHS)}, as sha256:0123...", USAGE)
    if not re.fullmatch(rf"[0-9a-fA-F]{{{LENGTHS[kind]}}}", digits):
        raise Failure(f"a {kind} has {LENGTHS[kind]} hexadecimal digits, found '{digits}'", USAGE)
    return kind, digits.lower()


def _check_name(name: str, hint: str = "; say another one with --name") -> None:
    from imagemgr.errors import NameRefused
    from imagemgr.names import check_name

    try:
        check_name(name)
    except NameRefused as error:
        raise Failure(f"{error}{hint}", USAGE) from error


def _checked(source: Source, given: str, declared: str | None, told: dict[str, Any]) -> Header:
    """Its header, or why it is no image to be taken in."""
    from imagemgr import formats
    from imagemgr.errors import ImageError

    if not source.size:
        raise Failure(f"{given} is empty")
    view = formats.View(source.size, source.at)
    begins = formats.begins_like(view)
    try:
        header = formats.check(declared or begins, view)
    except ImageError as error:
        raise Failure(f"{given}: {error}") from error
    if declared == formats.RAW and begins != formats.RAW:
        raise Failure(
            f"{given} is said to be raw, but nodes would take it for {begins}, as it begins like that"
        )
    for problem in (*header.doubts, *(f"its data is in another file, {part!r}" for part in header.parts)):
        raise Failure(f"{given}: {problem}")
    if header.backing is not None:
        _check_backing(given, header.backing.name, header.backing.format, told)
    return header


def _check_backing(given: str, name: str, form: str, told: dict[str, Any]) -> None:
    """What it is an overlay of must be in the pool already, and of a format that nobody has to guess."""
    from imagemgr.errors import PathRefused
    from imagemgr.names import name_in, resolved

    if not form:
        raise Failure(
            f"{given} does not say which format its backing file {name!r} has, and that is not guessed"
        )
    directory = told["directory"]
    try:
        below = name_in(directory, resolved(directory, name)) if directory else None
    except PathRefused as error:
        raise Failure(f"{given}: its backing file: {error}") from error
    if below not in told["names"]:
        raise Failure(
            f"{given} is an overlay of {name!r}, which is no volume of pool {told['pool']}: import that first"
        )


# -- sending


def send_bytes(pool: str, name: str, data: bytes) -> None:
    """Make them a new raw volume; nothing of it is left when that fails.  Failure."""
    from clusterhost.cli.image_upload import Endpoint

    _check_name(name, "")
    told = ask("image.endpoint", pool=pool)
    parts = (data[at : at + len(ZEROS)] for at in range(0, len(data), len(ZEROS)))
    with Endpoint(told["socket"]) as endpoint, contextlib.ExitStack() as undo:
        document = VOLUME.format(name=escape(name), size=len(data))
        volume = endpoint.create(endpoint.pool(told["pool"]), document)
        undo.callback(_remove, endpoint, volume)
        endpoint.upload(volume, len(data), parts)
        undo.pop_all()


def _send(
    source: Source, shown: str, told: dict[str, Any], wanted: tuple[str, str], tell: Tell
) -> dict[str, Any]:
    from clusterhost.cli.image_upload import Endpoint

    sent, hashed = [0], _hash(wanted[0])

    def parts() -> Iterator[bytes | int]:
        yield from _with_holes(_told(source, sent, hashed, tell))
        found = hashed.hexdigest() if hashed is not None else ""
        if found != wanted[1]:
            raise Failure(f"{wanted[0]} of what came is {found}, not {wanted[1]}; nothing of it is kept")

    with Endpoint(told["socket"]) as endpoint, contextlib.ExitStack() as undo:
        volume = _volume(endpoint, shown, source.size, told["pool"])
        undo.callback(_remove, endpoint, volume)
        endpoint.upload(volume, source.size, parts())
        undo.pop_all()
    return {"sent": sent[0], "checksum": f"{wanted[0]}:{wanted[1]}" if hashed is not None else ""}


def _volume(endpoint: Endpoint, shown: str, size: int, pool: str) -> RemoteNonnullStorageVol:
    """A new one, or one that an earlier upload of as many bytes left incomplete."""
    from clusterhost.cli.image_upload import Refused

    handle = endpoint.pool(pool)
    try:
        return endpoint.create(handle, VOLUME.format(name=escape(shown), size=size))
    except Refused as refused:
        if refused.code != EXISTS:
            raise
        found = ask("image.show", image=shown, pool=pool)
        if not str(found["reason"]).startswith(f"an upload of bytes 0 to {size} to node"):
            raise
        return endpoint.volume(handle, shown)


def _remove(endpoint: Endpoint, volume: RemoteNonnullStorageVol) -> None:
    """What is left of it; where even that fails it stays incomplete, and is not listed."""
    for pause in (0.2, 1.0, 0.0):
        try:
            endpoint.delete(volume)
            return
        except Failure as failure:
            left = failure
            time.sleep(pause)
    click.echo(f"warning: {volume.name} stays behind, incomplete: {left.message}", err=True)


def _told(source: Source, sent: list[int], hashed: Hash | None, tell: Tell) -> Iterator[bytes | int]:
    """What the source gives, with progress and checksum."""
    done, percent = 0, -1
    for part in source.blocks():
        if isinstance(part, int):
            done += part
        else:
            done += len(part)
            if hashed is not None:
                hashed.update(part)
            sent[0] += 0 if _is_zero(part) else len(part)
        if (now := done * 100 // source.size) != percent:
            percent = now
            tell(done, source.size, f"{source.name} is sent")
        yield part


def _with_holes(parts: Iterator[bytes | int]) -> Iterator[bytes | int]:
    """Zeros at both ends of blocks are holes, and holes in a row are one: a new volume has nothing there but zeros."""
    hole = 0
    for part in parts:
        if isinstance(part, int) or _is_zero(part):
            hole += part if isinstance(part, int) else len(part)
            continue
        first, last = _data_in(part)
        if hole + first:
            yield hole + first
        yield part[first:last]
        hole = len(part) - last
    if hole:
        yield hole


def _data_in(block: bytes) -> tuple[int, int]:
    """From where to where it is more than zeros, in whole pages."""
    first = (len(block) - len(block.lstrip(b"\0"))) // PAGE * PAGE
    last = -(-len(block.rstrip(b"\0")) // PAGE) * PAGE
    return first, min(last, len(block))


def _is_zero(block: bytes) -> bool:
    return block == (ZEROS if len(block) == len(ZEROS) else bytes(len(block)))


def _hash(kind: str) -> Hash | None:
    if not kind:
        return None
    if kind == "blake3":
        from blake3 import blake3

        return blake3()
    return hashlib.new(kind)
