"""`clusterhost doctor`: parse, call clusterhost.doctor, print."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import click

from clusterhost.cli import client, output
from clusterhost.cli.errors import FAILED, NO_FRONT_END, Failure

COLUMNS = {"check": "Check", "level": "State", "found": "Found", "mend": "To mend it"}


@click.group()
def doctor() -> None:
    """Check a node or the front end, and say how to mend what is wrong.  Exit code 1: something is bad."""


@doctor.command()
@click.option("--uri", default="qemu:///system", show_default=True, help="libvirt URI of the node.")
@click.option("--migration-address", default="", metavar="ADDRESS", help="As in agent.toml.")
@click.option("--remote", is_flag=True, help="Look at its libvirtd alone: the node is not this machine.")
@output.format_option
def node(uri: str, migration_address: str, remote: bool, form: str) -> None:
    """Check this machine as a node."""
    from clusterhost.doctor.node import check_node

    _tell(asyncio.run(check_node(uri, migration_address, local=not remote)), form)


@doctor.command()
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="clusterhost.toml.")
@output.format_option
@click.pass_context
def front(ctx: click.Context, config: Path | None, form: str) -> None:
    """Check the front end that runs, or should run, on this machine."""
    from clusterhost.doctor.front import check_front

    path = config or Path((ctx.obj or {}).get("config") or client.DEFAULT_CONFIG)
    _tell(asyncio.run(check_front(path, _asker)), form)


def _asker(settings: Any) -> Any:
    from clusterhost.doctor.front import FrontEndSilent

    def ask(call: str) -> Any:
        try:
            return client.ask_at(str(settings.cluster.admin_socket), call, {})
        except Failure as error:
            if error.exit_code == NO_FRONT_END:
                raise FrontEndSilent(error.message) from error
            raise

    return ask


def _tell(findings: list[Any], form: str) -> None:
    from clusterhost.doctor.finding import healthy

    output.rows([dataclasses.asdict(finding) for finding in findings], COLUMNS, form)
    if not healthy(findings):
        raise click.exceptions.Exit(FAILED)
