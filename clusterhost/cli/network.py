"""`clusterhost network`: parse, call, print."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from clusterhost.cli import output
from clusterhost.cli.client import ask
from clusterhost.cli.errors import FAILED, Failure

COLUMNS = {
    "name": "Name",
    "active": "Active",
    "autostart": "Autostart",
    "mode": "Mode",
    "subnets": "Subnets",
    "bridge": "Bridge",
    "vni": "VNI",
    "running": "Running",
    "leases": "Leases",
    "nodes_ok": "On nodes",
    "nodes_all": "Of",
    "reason": "Reason",
}
NODES = {"node": "Node", "ok": "Ready", "address": "Address", "since": "Since", "reason": "Reason"}
LEASES = {
    "network": "Network",
    "address": "Address",
    "mac": "MAC",
    "name": "Name",
    "state": "State",
    "node": "Runs on",
    "since": "Since",
}

HOPS = {"node": "Node", "part": "Part", "state": "State", "found": "Found"}
PICTURE_NETWORKS = {key: COLUMNS[key] for key in ("name", "active", "mode", "subnets", "bridge", "vni")}
PICTURE_NODES = {"name": "Node", "state": "State"}
PICTURE_PARTS = {"network": "Network", "node": "Node", "ok": "Ready", "reason": "Reason"}
PICTURE_GUESTS = {
    "network": "Network",
    "name": "Guest",
    "mac": "MAC",
    "addresses": "Addresses",
    "node": "Node",
    "state": "State",
}


@click.group()
def network() -> None:
    """Networks that span nodes: what each node has of them, and who has which address.

    They are made and changed with virsh net-define and its like.
    """


@network.command("list")
@output.admin_options
@output.format_option
def list_(form: str) -> None:
    """List the networks."""
    output.rows(ask("network.list"), COLUMNS, form)


@network.command()
@click.argument("name")
@output.admin_options
@output.format_option
def show(name: str, form: str) -> None:
    """Show network NAME (or uuid), and for every node whether it has it, or why not."""
    output.with_nodes(ask("network.show", network=name), NODES, form)


@network.command()
@output.admin_options
@output.format_option
def names(form: str) -> None:
    """Show how the names in the DNS server outside are: how many wait and why, which are somebody else's."""
    output.one(ask("network.names"), form)


@network.command()
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@click.option("--probe", is_flag=True, help="Ask the guest DST for its address, by one ARP question.")
@output.admin_options
@output.format_option
@click.pass_context
def trace(ctx: click.Context, source: str, target: str, probe: bool, form: str) -> None:
    """Walk the way from SRC to DST, part by part, and say where it stops.

    SRC is DOMAIN or DOMAIN:MAC; DST too, or an address, or `gateway`.  Exit code 1: it stops, or is not known.
    """
    with output.progress_bar(f"trace {source} {target}") as progress:
        answer = ask("network.trace", progress, source=source, target=target, probe=probe)
    if form == "json":
        output.one(answer, form)
    else:
        output.rows(answer["hops"], HOPS, form)
        click.echo(f"\n{answer['end']}")
    ctx.exit(0 if answer["whole"] else FAILED)


@network.command()
@click.option("--network", metavar="NAME", help="This network alone.")
@click.option(
    "--svg",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True),
    metavar="FILE",
    help="Draw it into this file.",
)
@output.admin_options
@output.format_option
def diagram(network: str | None, svg: str | None, form: str) -> None:
    """Show networks, what each node has of them, and who is on them."""
    answer = ask("network.diagram", network=network)
    if svg is None:
        _diagram(answer, form)
        return
    from netmgr.picture import read
    from netmgr.svg import draw

    try:
        with click.open_file(svg, "w", encoding="utf-8", atomic=True) as file:
            file.write(draw(read(answer)))
    except OSError as error:
        raise Failure(f"{svg} cannot be written: {error.strerror}") from error
    if svg != "-":
        click.echo(f"{svg} is written")


def _diagram(answer: dict[str, Any], form: str) -> None:
    if form == "json":
        output.one(answer, form)
        return
    parts = [{"network": net["name"], **part} for net in answer["networks"] for part in net["nodes"]]
    guests = [
        {**guest, **plug} for guest in answer["guests"] for plug in guest["interfaces"]
    ]  # a guest on two networks stands in two lines
    order = [net["name"] for net in answer["networks"]]
    guests.sort(key=lambda row: order.index(row["network"]))
    for number, (found, columns) in enumerate(
        (
            (answer["networks"], PICTURE_NETWORKS),
            (answer["nodes"], PICTURE_NODES),
            (parts, PICTURE_PARTS),
            (guests, PICTURE_GUESTS),
        )
    ):
        if number:
            click.echo()
        output.rows(found, columns, form)


@network.group()
def lease() -> None:
    """Addresses that are spoken for."""


def _of_address(command: Callable[..., None]) -> Callable[..., None]:
    """NETWORK and ADDRESS."""
    for name in ("address", "network"):
        command = click.argument(name)(command)
    found: Callable[..., None] = output.admin_options(command)
    return found


@lease.command("list")
@click.argument("network", required=False)
@output.admin_options
@output.format_option
def list_leases(network: str | None, form: str) -> None:
    """List the addresses of NETWORK, or of all networks: bound to a guest, held, reserved or just released."""
    output.rows(ask("network.lease.list", network=network), LEASES, form)


@lease.command()
@_of_address
def hold(network: str, address: str) -> None:
    """Give ADDRESS of NETWORK to nobody."""
    ask("network.lease.hold", network=network, address=address)
    click.echo(f"{address} is held")


@lease.command()
@click.argument("network")
@click.argument("mac")
@click.argument("address")
@output.admin_options
def reserve(network: str, mac: str, address: str) -> None:
    """Give ADDRESS of NETWORK to the interface with this MAC, and to no other."""
    ask("network.lease.reserve", network=network, mac=mac, address=address)
    click.echo(f"{address} is reserved for {mac}")


@lease.command()
@_of_address
def release(network: str, address: str) -> None:
    """Give ADDRESS, which was held, reserved, or waits for a guest that is gone, to whoever comes."""
    ask("network.lease.release", network=network, address=address)
    click.echo(f"{address} is free")
