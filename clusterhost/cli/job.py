"""`clusterhost job`: parse, call, print."""

from __future__ import annotations

import click

from clusterhost.cli import output
from clusterhost.cli.client import ask

COLUMNS = {
    "id": "Id",
    "kind": "Kind",
    "object": "Object",
    "state": "State",
    "done": "Done",
    "total": "Of",
    "text": "What",
    "started": "Started",
    "finished": "Finished",
}


@click.group()
def job() -> None:
    """Jobs: what takes longer than a call."""


@job.command("list")
@output.admin_options
@output.format_option
def list_(form: str) -> None:
    """List jobs under way and the last ones done."""
    output.rows(ask("job.list"), COLUMNS, form)


@job.command()
@click.argument("id_", metavar="ID")
@output.admin_options
@output.format_option
def show(id_: str, form: str) -> None:
    """Show job ID."""
    output.one(ask("job.show", id=int(id_) if id_.isdigit() else id_), form)
