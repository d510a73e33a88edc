"""`clusterhost endpoint`: the URI of a cluster, by what DNS says of a domain.  Asks no front end."""

from __future__ import annotations

import random

import click

from clusterhost.cli.errors import NOT_FOUND, Failure

PORTS = {"ssh": 22, "tls": 16514, "tcp": 16509}
"""Transports of libvirt's URIs and their usual ports."""


@click.command()
@click.option("--domain", metavar="NAME", required=True, help="Where the records are: _libvirt._tcp.NAME.")
@click.option(
    "--nameserver", metavar="ADDRESS[:PORT]", default="", help="Who is asked [default: the system's]."
)
@click.option(
    "--transport", type=click.Choice(list(PORTS)), help="How [default: what the port means, else tls]."
)
@click.option("--all", "every", is_flag=True, help="All of them, in the order in which to try them.")
def endpoint(domain: str, nameserver: str, transport: str | None, every: bool) -> None:
    """Print the URI of the cluster of a domain, for `virsh -c`: libvirt does not look into DNS itself."""
    from clusterhost.control import srv

    try:
        offers = srv.look_up(srv.ENDPOINT, domain, nameserver)
    except srv.LookupFailed as error:
        raise Failure(str(error), NOT_FOUND) from error
    chosen = srv.ordered(offers, lambda most: random.randint(0, most))
    for offer in chosen if every else chosen[:1]:
        click.echo(uri(offer.target.rstrip("."), offer.port, transport))


def uri(host: str, port: int, transport: str | None) -> str:
    """The port is named where it is not the transport's own."""
    by_port = {number: name for name, number in PORTS.items()}
    chosen = transport or by_port.get(port, "tls")
    place = host if port == PORTS[chosen] else f"{host}:{port}"
    return f"qemu+{chosen}://{place}/system"
