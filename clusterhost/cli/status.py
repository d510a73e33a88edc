"""`clusterhost status`: parse, call, print."""

from __future__ import annotations

import click

from clusterhost.cli import output
from clusterhost.cli.client import ask


@click.command()
@output.admin_options
@output.format_option
def status(form: str) -> None:
    """Show the cluster in a few lines."""
    output.one(ask("status"), form)
