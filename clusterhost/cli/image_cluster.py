"""`clusterhost image`, what it asks of the cluster: parse, call, print."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import click

from clusterhost.cli import output
from clusterhost.cli.client import ask
from clusterhost.cli.errors import FAILED, USAGE, Failure

COLUMNS = {
    "name": "Name",
    "pool": "Pool",
    "state": "State",
    "capacity_bytes": "Size",
    "allocated_bytes": "Allocated",
    "copies": "Copies",
    "nodes": "On",
    "reason": "Reason",
}
COPIES = {
    "node": "Node",
    "state": "State",
    "current": "Current",
    "generation": "Generation",
    "allocated_bytes": "Allocated",
    "last_used": "Last used",
    "pinned": "Pinned",
    "digest": "Digest",
}
CHAIN = {"image": "Image", "pool": "Pool", "format": "Format", "path": "Path"}
USERS = {"domain": "Domain", "node": "Node", "active": "Running", "written": "Writes", "below": "As a base"}
SPREAD = {
    "image": "Image",
    "node": "Node",
    "ok": "Has it",
    "received_bytes": "Received",
    "seconds": "Seconds",
    "reason": "Reason",
}
EVICTED = {
    "image": "Image",
    "pool": "Pool",
    "node": "Node",
    "evicted": "Evicted",
    "allocated_bytes": "Allocated",
    "reason": "Reason",
}
FINDINGS = {
    "pool": "Pool",
    "image": "Image",
    "node": "Node",
    "problem": "Problem",
    "text": "Found",
    "mended": "Mended",
}
JOURNAL = {"since": "Time", "kind": "What", "who": "Who", "text": "Text"}
SECTIONS = {"chain": CHAIN, "copies": COPIES, "users": USERS, "journal": JOURNAL}
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

pool_option = click.option(
    "--pool", metavar="POOL", help="The pool it is in, where several have one of that name."
)


@click.command("list")
@click.option("--pool", metavar="POOL", help="Of this pool only.")
@output.admin_options
@output.format_option
def list_(pool: str | None, form: str) -> None:
    """List images: the volumes of active pools, and the nodes that have a whole and current copy."""
    output.rows(ask("image.list", pool=pool), COLUMNS, form)


@click.command()
@click.argument("name")
@pool_option
@output.admin_options
@output.format_option
def show(name: str, pool: str | None, form: str) -> None:
    """Show image NAME: its format and size, what it is an overlay of, its copies, and who uses it."""
    answer = ask("image.show", image=name, pool=pool)
    if form == "json":
        output.one(answer, form)
        return
    hidden = {*SECTIONS, "nodes", "shared"}
    output.one({key: value for key, value in answer.items() if key not in hidden}, form)
    for section, columns in SECTIONS.items():
        if answer.get(section):
            click.echo()
            output.rows(answer[section], columns, form)


@click.command()
@click.argument("name")
@pool_option
@output.admin_options
@output.format_option
def copies(name: str, pool: str | None, form: str) -> None:
    """List the copies of image NAME, with their generation and digest.

    States: whole; coming (not all of it is there); stale (older than the image is now); lost (its node is away).
    """
    output.rows(ask("image.copies", image=name, pool=pool), COPIES, form)


@click.command()
@click.argument("name")
@pool_option
@click.option("--to", metavar="NODES", help="Names, with commas between them.")
@click.option("--all", "every", is_flag=True, help="To all nodes.")
@output.admin_options
@output.format_option
@click.pass_context
def distribute(
    ctx: click.Context, name: str, pool: str | None, to: str | None, every: bool, form: str
) -> None:
    """Have image NAME on nodes: all of them fetch it at once, and from each other.

    What it is an overlay of goes first.  A node that fails does not stop the others; the same command again goes on
    where it broke off.  Exit code 1: not all have it.
    """
    if (to is None) == (not every):
        raise Failure("say where: --to n1,n2 or --all", USAGE)
    nodes = _names(to) if to is not None else None
    with output.progress_bar(f"distribute {name}") as progress:
        rows = ask("image.distribute", progress, image=name, pool=pool, nodes=nodes)
    output.rows(rows, SPREAD, form)
    ctx.exit(0 if all(row["ok"] for row in rows) else FAILED)


@click.command()
@click.argument("name", required=False)
@pool_option
@click.option(
    "--node", "nodes", metavar="NODES", help="Take the copies of these nodes (commas between them)."
)
@click.option(
    "--older-than", metavar="TIME", help="Take copies that were of no use for so long: 90m, 12h, 30d."
)
@click.option("--force", is_flag=True, help="With NAME: also a copy that is pinned.")
@output.admin_options
@output.format_option
@click.pass_context
def evict(
    ctx: click.Context,
    name: str | None,
    pool: str | None,
    nodes: str | None,
    older_than: str | None,
    force: bool,
    form: str,
) -> None:
    """Delete copies of image NAME, or of all, that are not needed.

    Never the last newest copy in reach, none that a domain runs with, no base of an overlay on that node, and none that
    is pinned.
    Exit code 1: something stayed.
    """
    if older_than is None and (name is None or nodes is None):
        raise Failure("say which: NAME and --node, or --older-than", USAGE)
    if force and older_than is not None:
        raise Failure("--force goes with NAME and --node", USAGE)
    given = _names(nodes) if nodes is not None else None
    seconds = _seconds(older_than) if older_than is not None else None
    rows = ask("image.evict", image=name, pool=pool, nodes=given, older_than=seconds, force=force or None)
    output.rows(rows, EVICTED, form)
    ctx.exit(0 if all(row["evicted"] for row in rows) else FAILED)


@click.command()
@click.argument("name")
@pool_option
@click.option("--node", "nodes", metavar="NODES", help="On these nodes only (commas between them).")
@output.admin_options
def pin(name: str, pool: str | None, nodes: str | None) -> None:
    """Have copies of image NAME stay where they are: no cache limit and no `evict` takes them away.

    Without --node wherever it is, also on nodes that get a copy later.
    """
    _pin(name, pool, nodes, on=True)


@click.command()
@click.argument("name")
@pool_option
@click.option("--node", "nodes", metavar="NODES", help="On these nodes only (commas between them).")
@output.admin_options
def unpin(name: str, pool: str | None, nodes: str | None) -> None:
    """Take back `image pin` of image NAME, everywhere or for some nodes."""
    _pin(name, pool, nodes, on=False)


@click.command()
@click.argument("name", required=False)
@pool_option
@click.option(
    "--again", is_flag=True, help="Read files from the disk, also those that nobody wrote to since."
)
@click.option(
    "--repair",
    is_flag=True,
    help="Take up copies that were not finished; remove what is left of others, and volumes not made to the end.",
)
@click.option(
    "--delete-incomplete", "drop", is_flag=True, help="With --repair: volumes whose upload was cut, too."
)
@output.admin_options
@output.format_option
@click.pass_context
def verify(
    ctx: click.Context, name: str | None, pool: str | None, again: bool, repair: bool, drop: bool, form: str
) -> None:
    """Check image NAME, a pool, or all: do copies hold what they should, and is anything left that nobody needs?

    Exit code 1: something is wrong and was not mended.
    """
    if drop and not repair:
        raise Failure("--delete-incomplete goes with --repair", USAGE)
    with output.progress_bar("verify") as progress:
        answer = ask("image.verify", progress, image=name, pool=pool, again=again, repair=repair, drop=drop)
    if form == "json":
        output.one(answer, form)
    else:
        _print_checked(answer, form)
    ctx.exit(FAILED if any(not found["mended"] for found in answer["findings"]) else 0)


@click.command()
@click.argument("name")
@pool_option
@output.admin_options
def flatten(name: str, pool: str | None) -> None:
    """Have image NAME, an overlay that a running domain writes to, need no base any more (libvirt's block pull)."""
    with output.progress_bar(f"flatten {name}") as progress:
        answer = ask("image.flatten", progress, image=name, pool=pool)
    click.echo(f"{answer['image']} is no overlay any more")


COMMANDS: Sequence[click.Command] = (list_, show, copies, distribute, evict, pin, unpin, flatten, verify)


def _print_checked(answer: dict[str, Any], form: str) -> None:
    output.one({key: value for key, value in answer.items() if key != "findings"}, form)
    if answer["findings"]:
        click.echo()
        output.rows(answer["findings"], FINDINGS, form)


def _pin(name: str, pool: str | None, nodes: str | None, *, on: bool) -> None:
    given = _names(nodes) if nodes is not None else None
    answer = ask("image.pin", image=name, pool=pool, nodes=given, on=on)
    click.echo(f"{answer['image']} is pinned on {', '.join(answer['pinned']) or 'no node'}")


def _names(given: str) -> list[str]:
    names = [name.strip() for name in given.split(",")]
    if not all(names):
        raise Failure(f"'{given}' has a name in it that is empty", USAGE)
    return names


def _seconds(given: str) -> int:
    found = re.fullmatch(r"(\d+)([smhd])", given)
    if found is None:
        raise Failure(f"'{given}' is no time; it is a number and one of {', '.join(UNITS)}, as 30d", USAGE)
    return int(found[1]) * UNITS[found[2]]
