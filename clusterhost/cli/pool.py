"""`clusterhost pool`: parse, call, print."""

from __future__ import annotations

import click

from clusterhost.cli import output
from clusterhost.cli.client import ask
from clusterhost.cli.errors import USAGE, Failure

COLUMNS = {
    "name": "Name",
    "active": "Active",
    "autostart": "Autostart",
    "type": "Type",
    "kind": "Kind",
    "clones": "Clones",
    "cache_limit": "Cache",
    "target": "Target",
    "nodes_ok": "On nodes",
    "nodes_all": "Of",
    "reason": "Reason",
}
NODES = {
    "node": "Node",
    "ok": "Ready",
    "active": "Active",
    "whose": "Made by",
    "since": "Since",
    "reason": "Reason",
}


@click.group()
def pool() -> None:
    """Storage pools that span nodes: what each node has of them.

    They are made and changed with virsh pool-define and its like.
    """


@pool.command("list")
@output.admin_options
@output.format_option
def list_(form: str) -> None:
    """List the pools."""
    output.rows(ask("pool.list"), COLUMNS, form)


@pool.command()
@click.argument("name")
@output.admin_options
@output.format_option
def show(name: str, form: str) -> None:
    """Show pool NAME (or uuid), and for every node whether it has it, or why not.

    Made by: the cluster, or the node itself, whose pool was taken as it is and stays when the node leaves.
    """
    output.with_nodes(ask("pool.show", pool=name), NODES, form)


@pool.command("set")
@click.argument("name")
@click.option(
    "--shared/--local",
    default=None,
    help="Its directory is one place on all nodes (NFS and the like); or one on each node.",
)
@click.option(
    "--linked-clones/--full-clones",
    "linked",
    default=None,
    help="A clone within it is a qcow2 overlay of its source, which is frozen then; or a copy.",
)
@click.option(
    "--cache-limit",
    metavar="LIMIT",
    help="The most that copies which could be evicted may take on each node: 20GiB, 30% of the pool, none, or default"
    " (what the configuration says).",
)
@output.admin_options
def set_(name: str, shared: bool | None, linked: bool | None, cache_limit: str | None) -> None:
    """Say of pool NAME, a directory, whether all nodes see the same files there, what clones are in it, and how much of
    what could be evicted stays.

    That they do is proved: one node writes a file there, and every other one must see it.
    """
    if shared is None and linked is None and cache_limit is None:
        options = "--shared, --local, --linked-clones, --full-clones or --cache-limit"
        raise Failure(f"nothing to set: give {options}", USAGE)
    ask("pool.set", pool=name, shared=shared, linked=linked, cache_limit=cache_limit)
    if shared is not None:
        click.echo(f"pool {name} is {'shared' if shared else 'local'}")
    if linked is not None:
        click.echo(f"clones in pool {name} are {'overlays' if linked else 'copies'}")
    if cache_limit is not None:
        click.echo(f"the cache limit of pool {name} is {cache_limit}")
