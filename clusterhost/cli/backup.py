"""`clusterhost backup` and `restore`: parse, call clusterhost.store, print.  Both work on the store's file itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from clusterhost.cli import output
from clusterhost.cli.client import DEFAULT_CONFIG
from clusterhost.cli.errors import USAGE, Failure, failure

config_option = click.option(
    "--config",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help=f"Configuration, which names the store [default: {DEFAULT_CONFIG}].",
)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@config_option
@output.format_option
@click.pass_context
def backup(ctx: click.Context, file: Path, config: Path | None, form: str) -> None:
    """Copy the store into FILE, also while the front end serves.

    The copy is whole and checked, and replaces FILE at once or not at all; only its owner can read it, as definitions
    hold passwords.  Keep the control key with it: agents know no other.
    """
    from clusterhost.store import backup as copying

    with _told():
        size = copying.backup(_url(ctx, config), file.absolute())
    if form == "json":
        output.one({"file": str(file), "bytes": size}, form)
    else:
        click.echo(f"wrote {file}, {size} bytes")


@click.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--in-place", is_flag=True, help="The store is in its place already, by pg_restore or by hand.")
@config_option
@output.format_option
@click.pass_context
def restore(ctx: click.Context, file: Path | None, in_place: bool, config: Path | None, form: str) -> None:
    """Put the backup FILE in the place of the store.  The front end must be stopped.

    The backup is checked first.  What was there is kept beside it.  What happened since the backup is found at the
    nodes when they connect: domains that were made, moved or removed; a node that was added since must be added again.
    With --in-place instead of FILE only the numbers that agents compare are raised: they obey none of an older store.
    """
    from clusterhost.store import restore as restoring

    if in_place == (file is not None):
        raise click.UsageError("give either FILE or --in-place")
    url = _url(ctx, config)
    with _told():
        if file is not None:
            found = restoring.restore(url, file.absolute(), time.time())
        else:
            found = restoring.renumber(url, time.time())
    kept = str(found.kept) if found.kept is not None else None
    if form == "json":
        told = {"database": found.database, "kept": kept, "epoch": found.epoch}
        output.one({**told, "nodes": found.nodes, "domains": found.domains}, form)
        return
    click.echo(f"restored {found.database}: {found.nodes} nodes, {found.domains} domains")
    if kept is not None:
        click.echo(f"what was there is {kept}")


def _url(ctx: click.Context, given: Path | None) -> str:
    from clusterhost import config as configuration

    before = (ctx.obj or {}).get("config")
    path = given or Path(before or DEFAULT_CONFIG)
    try:
        return configuration.load(path).store.url
    except configuration.ConfigError as error:
        raise Failure(str(error), USAGE) from error


@contextmanager
def _told() -> Iterator[None]:
    from clusterhost.model.errors import ClusterError

    try:
        yield
    except ClusterError as error:
        raise failure(type(error).__name__, str(error)) from error
