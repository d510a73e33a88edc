"""`clusterhost domain`: parse, call, print.  What virsh does already is left to virsh."""

from __future__ import annotations

import click

from clusterhost.cli import output
from clusterhost.cli.client import ask

COLUMNS = {
    "id": "Id",
    "name": "Name",
    "state": "State",
    "node": "Node",
    "vcpus": "vCPUs",
    "max_memory_kib": "Memory",
    "autostart": "Autostart",
    "persistent": "Persistent",
}


@click.group()
def domain() -> None:
    """Domains: where they are, and moving them.  NAME may be a name, a uuid or an id."""


@domain.command("list")
@output.admin_options
@output.format_option
def list_(form: str) -> None:
    """List all domains with their nodes."""
    output.rows(ask("domain.list"), COLUMNS, form)


@domain.command()
@click.argument("name")
@output.admin_options
@output.format_option
def show(name: str, form: str) -> None:
    """Show what the cluster knows of a domain."""
    output.one(ask("domain.show", domain=name), form)


@domain.command()
@click.argument("name")
@output.admin_options
@output.format_option
def where(name: str, form: str) -> None:
    """Print the node that runs a domain, or holds its definition."""
    answer = ask("domain.where", domain=name)
    if form == "json":
        output.one(answer if isinstance(answer, dict) else {"domain": name, "node": answer}, form)
    else:
        click.echo(answer["node"] if isinstance(answer, dict) else answer)


@domain.command()
@click.argument("name")
@click.option("--to", metavar="NODE", help="Target; placement chooses when not given.")
@click.option("--live/--offline", default=None, help="Live when it runs (default), or only the definition.")
@output.copy_storage_option
@output.admin_options
@output.format_option
def move(name: str, to: str | None, live: bool | None, copy_storage: str | None, form: str) -> None:
    """Move a domain to another node: live when it runs, else its definition."""
    with output.progress_bar(f"move {name}") as progress:
        answer = ask("domain.move", progress, domain=name, to=to, live=live, copy_storage=copy_storage)
    target = answer.get("node") if isinstance(answer, dict) else None
    if form == "json":
        output.one(answer if isinstance(answer, dict) else {"domain": name, "node": to}, form)
    else:
        click.echo(f"domain {name} is on {target or to}")
