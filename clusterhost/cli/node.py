"""`clusterhost node`: parse, call, print."""

from __future__ import annotations

import click

from clusterhost.cli import output
from clusterhost.cli.client import ask

COLUMNS = {
    "name": "Name",
    "cell": "Cell",
    "admin": "Wanted",
    "link": "State",
    "domains": "Domains",
    "running": "Running",
    "cpus": "CPUs",
    "memory_kib": "Memory",
    "free_kib": "Free",
    "since": "Since",
    "reason": "Reason",
}


@click.group()
def node() -> None:
    """Nodes: the machines of the cluster."""


@node.command()
@click.argument("name")
@click.option("--uri", metavar="URI", help="libvirt URI, for an agent that runs beside the front end.")
@click.option("--migration-address", metavar="ADDRESS", help="Where other nodes send this node their guests.")
@click.option(
    "--take-over",
    is_flag=True,
    help="The cluster's networks go before the node's own of the same names, until it is removed.",
)
@output.admin_options
@output.format_option
def add(name: str, uri: str | None, migration_address: str | None, take_over: bool, form: str) -> None:
    """Add node NAME.

    Without --uri it prints a token, good for one use, that the node's own agent joins with.
    """
    answer = ask(
        "node.add", name=name, uri=uri, migration_address=migration_address, take_over=take_over or None
    )
    if form == "json":
        output.one(answer, form)
    elif answer.get("token"):
        click.echo(f"On {name}, put this into agent.toml as token, and start `clusterhost agent`:", err=True)
        click.echo(answer["token"])
    else:
        click.echo(f"node {name} added; its agent runs beside the front end")


@node.command("list")
@output.admin_options
@output.format_option
def list_(form: str) -> None:
    """List the nodes."""
    output.rows(ask("node.list"), COLUMNS, form)


@node.command()
@click.argument("name")
@output.admin_options
@output.format_option
def show(name: str, form: str) -> None:
    """Show everything known of node NAME."""
    output.one(ask("node.show", name=name), form)


@node.command("set")
@click.argument("name")
@click.option(
    "--map-interface",
    multiple=True,
    required=True,
    metavar="NAME=LINK",
    help="What networks call NAME (a device or bridge) is LINK on this node; NAME= ends that.  May be repeated.",
)
@output.admin_options
def set_(name: str, map_interface: tuple[str, ...]) -> None:
    """Change what is kept of node NAME.

    Active networks that name such a link are told to the node again.
    """
    mapped = ask("node.set", name=name, map_interface=list(map_interface))
    click.echo(f"node {name}: {', '.join(mapped) or 'every link has the name that networks give it'}")


@node.command()
@click.argument("name")
@output.admin_options
def enable(name: str) -> None:
    """Let domains be placed on node NAME (again)."""
    ask("node.enable", name=name)
    click.echo(f"node {name} enabled")


@node.command()
@click.argument("name")
@output.admin_options
def disable(name: str) -> None:
    """Place no more domains on node NAME; those on it stay."""
    ask("node.disable", name=name)
    click.echo(f"node {name} disabled")


@node.command()
@click.argument("name")
@output.copy_storage_option
@output.admin_options
@output.format_option
def drain(name: str, copy_storage: str | None, form: str) -> None:
    """Move every domain off node NAME, live, and keep it empty."""
    with output.progress_bar(f"drain {name}") as progress:
        answer = ask("node.drain", progress, name=name, copy_storage=copy_storage)
    if form == "json":
        output.one(answer if isinstance(answer, dict) else {"node": name}, form)
    else:
        click.echo(f"node {name} is drained")


@node.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Also when it is out of reach and still has domains.")
@output.admin_options
def remove(name: str, force: bool) -> None:
    """Remove node NAME, which must be drained."""
    ask("node.remove", name=name, force=True if force else None)
    click.echo(f"node {name} removed")
