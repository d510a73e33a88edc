"""The `clusterhost` command: its table of commands.  Imports none of them before it is used."""

from __future__ import annotations

import click

from clusterhost.cli.lazy import LazyGroup

COMMANDS = {
    "init": ("clusterhost.cli.serve:init", "Make the state directory, the control key and the store."),
    "serve": ("clusterhost.cli.serve:serve", "Run the front end that clients and agents connect to."),
    "agent": ("clusterhost.cli.serve:agent", "Run the agent of one node."),
    "status": ("clusterhost.cli.status:status", "Show the cluster in a few lines."),
    "node": ("clusterhost.cli.node:node", "Add, list, drain and remove nodes."),
    "domain": ("clusterhost.cli.domain:domain", "Show where domains are, and move them."),
    "network": ("clusterhost.cli.network:network", "Show networks, what nodes have of them, and leases."),
    "pool": ("clusterhost.cli.pool:pool", "Show storage pools, and what nodes have of them."),
    "image": (
        "clusterhost.cli.image:image",
        "Import, distribute and check images; write what a guest reads at its first boot.",
    ),
    "placement": ("clusterhost.cli.placement:placement", "Explain why a domain runs where it does."),
    "job": ("clusterhost.cli.job:job", "List what is being done and what was done."),
    "backup": ("clusterhost.cli.backup:backup", "Copy the store into a file, also while it is in use."),
    "restore": ("clusterhost.cli.backup:restore", "Put a backup in the place of the store."),
    "endpoint": ("clusterhost.cli.endpoint:endpoint", "Print the URI of a cluster that DNS tells of."),
    "doctor": ("clusterhost.cli.doctor:doctor", "Check a node or the front end and say how to mend it."),
    "demo": ("clusterhost.cli.demo:demo", "Run a whole cluster on this machine."),
}


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": None},
)
@click.option("--socket", metavar="PATH", help="Admin socket of the front end (or CLUSTERHOST_ADMIN).")
@click.option("--config", metavar="FILE", help="clusterhost.toml, which names the admin socket.")
@click.version_option(package_name="clusterhost")
@click.pass_context
def cli(ctx: click.Context, socket: str | None, config: str | None) -> None:
    """A cluster of libvirt machines that answers as one libvirt host."""
    ctx.obj = {"socket": socket, "config": config}


def main() -> None:
    """Entry point; exit codes are in clusterhost.cli.errors."""
    cli(prog_name="clusterhost")
