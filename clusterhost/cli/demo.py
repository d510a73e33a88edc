"""`clusterhost demo`: parse, call clusterhost.demo.cluster, print."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from clusterhost.cli import output
from clusterhost.cli.errors import Failure

COLUMNS = {"name": "Name", "state": "State", "address": "Address", "socket": "Own socket"}

state_option = click.option(
    "--state",
    metavar="DIR",
    type=click.Path(path_type=Path),
    default=Path(".demo"),
    show_default=True,
    help="Directory of the demo.",
)


class DemoGroup(click.Group):
    """The one place where the demo's own errors become the command's."""

    def invoke(self, ctx: click.Context) -> Any:
        from clusterhost.demo.initrd import GuestPartsMissing
        from clusterhost.demo.layout import DemoError

        try:
            return super().invoke(ctx)
        except (DemoError, GuestPartsMissing) as error:
            raise Failure(str(error)) from error


@click.group(cls=DemoGroup)
def demo() -> None:
    """A real cluster on this machine: namespaces as nodes, each with its own libvirtd and agent."""


@demo.command()
@click.option("--nodes", type=click.IntRange(1, 100), default=3, show_default=True, help="How many nodes.")
@state_option
def up(nodes: int, state: Path) -> None:
    """Start a cluster; the last line printed is the URI for virsh."""
    from clusterhost.demo import cluster

    click.echo(cluster.up(state, nodes, _say).endpoint)


@demo.command()
@state_option
def down(state: Path) -> None:
    """Stop the cluster and remove every trace of it."""
    from clusterhost.demo import cluster

    cluster.down(state, _say)


@demo.command()
@state_option
@output.format_option
def status(state: Path, form: str) -> None:
    """Show the machines of the demo."""
    from clusterhost.demo import cluster

    output.rows([_plain(fact) for fact in cluster.status(state)], COLUMNS, form)


@demo.command("power-cut")
@click.argument("node")
@state_option
def power_cut(node: str, state: Path) -> None:
    """Cut the power of NODE: all its processes end at once."""
    from clusterhost.demo import cluster

    cluster.power_cut(state, node)
    click.echo(f"{node} has no power")


@demo.command("power-on")
@click.argument("node")
@state_option
def power_on(node: str, state: Path) -> None:
    """Switch NODE on again."""
    from clusterhost.demo import cluster

    cluster.power_on(state, node)
    click.echo(f"{node} is on")


@demo.command()
@click.argument("node")
@state_option
def partition(node: str, state: Path) -> None:
    """Cut NODE off the network; it goes on running."""
    from clusterhost.demo import cluster

    cluster.partition(state, node)
    click.echo(f"{node} is cut off")


@demo.command()
@click.argument("node")
@state_option
def heal(node: str, state: Path) -> None:
    """Connect NODE to the network again."""
    from clusterhost.demo import cluster

    cluster.heal(state, node)
    click.echo(f"{node} is connected")


def _say(line: str) -> None:
    click.echo(line, err=True)


def _plain(fact: Any) -> dict[str, Any]:
    found = dataclasses.asdict(fact) if dataclasses.is_dataclass(fact) else dict(fact)  # type: ignore[arg-type]
    return {key: str(value) if isinstance(value, Path) else value for key, value in found.items()}
