"""`clusterhost image`: parse, call, print."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clusterhost.cli import image_cluster, image_import, output
from clusterhost.cli.client import ask
from clusterhost.cli.errors import FAILED, USAGE, Failure

if TYPE_CHECKING:
    from imagemgr.chains import Chain

CHAIN = {
    "path": "File",
    "format": "Format",
    "virtual_bytes": "Virtual size",
    "allocated_bytes": "Allocated",
    "backing_file": "Backing file",
    "backing_format": "Backing format",
}
PROBLEMS = {"path": "File", "problem": "Problem", "text": "Found"}
AUTO, NONE = "auto", "none"


@click.group()
def image() -> None:
    """Images of the cluster, disk images as files, and what a guest is told at its first boot."""


for _command in (*image_cluster.COMMANDS, image_import.import_):
    image.add_command(_command)


@image.command()
@click.argument("file", type=click.Path())
@click.option(
    "--as", "declared", metavar="FORMAT", help="What it is said to be [default: what it begins like]."
)
@click.option("--within", metavar="DIR", help="A directory that nothing of its chain may leave.")
@output.format_option
@click.pass_context
def inspect(ctx: click.Context, file: str, declared: str | None, within: str | None, form: str) -> None:
    """Show the format, size and backing chain of image FILE, and what is wrong with them.

    Needs no cluster.  Exit code 1: something is.  Without --as the format is read off the file's first bytes, which a
    guest with a raw disk may have written.
    """
    from imagemgr import chains, peek
    from imagemgr.errors import ImageError

    path = os.path.abspath(file)
    try:
        format_ = declared or peek.begins_like(path)
        found = chains.chain(path, format_, peek.look, os.path.abspath(within) if within else "")
    except OSError as error:
        raise Failure(f"{file} cannot be read: {error.strerror}") from error
    except ImageError as error:
        raise Failure(f"{file}: {error}") from error
    _print_chain(found, format_, declared is not None, form)
    ctx.exit(FAILED if found.problems else 0)


@image.command()
@click.argument("target", metavar="OUT.iso", type=click.Path(dir_okay=False))
@click.option("--pool", metavar="POOL", help="OUT.iso is a new volume of this pool of the cluster, no file.")
@click.option("--name", help="Host name; with dots a full one [default: the domain's].")
@click.option(
    "--key", "keys", multiple=True, metavar="FILE", help="Public SSH keys for the usual user.  Repeatable."
)
@click.option("--user-data", metavar="FILE", help="What cloud-init does: #cloud-config, a script, or MIME.")
@click.option(
    "--network",
    metavar="auto|FILE|none",
    help="From the domain's addresses, a network-config of your own, or whatever the guest does by itself"
    " [default: auto with --domain, else none].",
)
@click.option(
    "--domain", metavar="NAME", help="A domain of the cluster: its uuid, interfaces and addresses are told."
)
@click.option("--instance-id", metavar="ID", help="Another one lets a guest boot for the first time again.")
@output.admin_options
def seed(
    target: str,
    pool: str | None,
    name: str | None,
    keys: tuple[str, ...],
    user_data: str | None,
    network: str | None,
    domain: str | None,
    instance_id: str | None,
) -> None:
    """Write a CD that tells a guest its name, keys and addresses at its first boot (cloud-init, NoCloud).

    OUT.iso is a file on this machine or, with --pool, a volume.  The same words make the same bytes.
    """
    from imagemgr import iso, seeds

    network = network or (AUTO if domain else NONE)
    if network == AUTO and not domain:
        raise Failure("--network auto needs --domain, whose addresses it tells", USAGE)
    if not name and not domain:
        raise Failure("a guest needs a name: --name or --domain", USAGE)
    told: dict[str, Any] = ask("domain.interfaces", domain=domain) if domain else {}
    data = _read(user_data) if user_data else b""
    with _refusals():
        guest = seeds.Guest(
            name=name or told["domain"],
            instance=instance_id or told.get("uuid", ""),
            keys=tuple(key for file in keys for key in _keys(file)),
            user_data=data,
            interfaces=tuple(map(seeds.interface_of, told["interfaces"])) if network == AUTO else (),
            network=_read(network) if network not in (AUTO, NONE) else b"",
        )
        found = iso.volume(seeds.LABEL, seeds.documents(guest))
    if doubt := seeds.doubt(data):
        click.echo(f"warning: {doubt}", err=True)
    if pool is not None:
        image_import.send_bytes(pool, target, found)
        click.echo(f"{target} is in pool {pool}")
        return
    _write(Path(target), found)
    click.echo(f"{target} is written")


# -- inspect


def _print_chain(found: Chain, form: str, declared: bool, how: str) -> None:
    rows = [
        {
            "path": _shown(link.path),
            "format": link.header.format,
            "virtual_bytes": link.header.capacity,
            "allocated_bytes": _allocated(link.path),
            "backing_file": _shown(link.header.backing.name) if link.header.backing else "",
            "backing_format": link.header.backing.format if link.header.backing else "",
        }
        for link in found.links
    ]
    problems = [
        {"path": _shown(problem.path), "problem": str(problem.kind), "text": problem.text}
        for problem in found.problems
    ]
    summary: dict[str, Any] = {"format": form, "format_by": "the command" if declared else "its first bytes"}
    if found.links:
        header = found.links[0].header
        summary |= {
            "virtual_bytes": header.capacity,
            "allocated_bytes": rows[0]["allocated_bytes"],
            "version": header.version or None,
            "cluster_bytes": header.cluster or None,
            "encryption": header.encryption,
            "features": list(header.features),
            "other_files": [_shown(part) for part in header.parts],
        }
    if how == "json":
        output.one({**summary, "chain": rows, "problems": problems}, how)
        return
    output.one(summary, how)
    for lines, columns in ((rows, CHAIN), (problems, PROBLEMS)):
        if lines:
            click.echo()
            output.rows(lines, columns, how)


def _shown(path: str) -> str:
    """Bytes that are no UTF-8 would end a terminal's line and the command."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _allocated(path: str) -> int:
    from imagemgr import peek

    return peek.allocated(path)


# -- seed


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    from imagemgr.errors import ImageError

    try:
        yield
    except ImageError as error:
        raise Failure(str(error), USAGE) from error


def _keys(file: str) -> tuple[str, ...]:
    from imagemgr import seeds
    from imagemgr.errors import SeedRefused

    try:
        return seeds.keys_in(_read(file).decode("utf-8", "replace"))
    except SeedRefused as error:
        raise SeedRefused(f"{file}: {error}") from error


def _read(file: str) -> bytes:
    from imagemgr import seeds

    try:
        with open(file, "rb") as opened:
            found = opened.read(seeds.LARGEST + 1)
    except OSError as error:
        raise Failure(f"{file} cannot be read: {error.strerror}", USAGE) from error
    if not found:
        raise Failure(f"{file} is empty", USAGE)
    if len(found) > seeds.LARGEST:
        raise Failure(f"{file} has more than {seeds.LARGEST} bytes", USAGE)
    return found


def _write(target: Path, data: bytes) -> None:
    """In the place of an older seed, never of anything else; secrets may be in it, so nobody else may read it."""
    new = target.with_name(f".{target.name}.new")
    try:
        if target.exists() and not _is_seed(target):
            raise Failure(f"{target} is there already and is no seed; it is left alone")
        with contextlib.ExitStack() as undo:
            undo.callback(new.unlink, missing_ok=True)
            with open(new, "wb", opener=_private) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            new.replace(target)
    except OSError as error:
        raise Failure(f"{target} cannot be written: {error.strerror}") from error


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, stat.S_IRUSR | stat.S_IWUSR)


def _is_seed(path: Path) -> bool:
    """A CD of the name that ours have."""
    from imagemgr import foreign, peek, seeds

    with peek.view(str(path)) as view:
        name = view.read(foreign.ISO_AT + 39, 32).rstrip(b" ").lower()
        return view.begins(foreign.ISO, foreign.ISO_AT) and name == seeds.LABEL.encode()
