"""`clusterhost placement`: parse, call, print."""

from __future__ import annotations

import click

from clusterhost.cli import output
from clusterhost.cli.client import ask

COLUMNS = {"node": "Node", "ok": "Fits", "score": "Score", "text": "Why"}


@click.group()
def placement() -> None:
    """Placement: who runs where, and why."""


@placement.command()
@click.argument("domain")
@output.admin_options
@output.format_option
def explain(domain: str, form: str) -> None:
    """Tell for every node why DOMAIN was, or would be, placed there or not."""
    answer = ask("placement.explain", domain=domain)
    found = answer.get("reasons", []) if isinstance(answer, dict) else answer
    if form == "json":
        output.one(answer, form) if isinstance(answer, dict) else output.rows(answer, COLUMNS, form)
        return
    if isinstance(answer, dict) and answer.get("node"):
        click.echo(f"{domain} is on {answer['node']}" + _wish(answer))
    output.rows(found, COLUMNS, form)


def _wish(answer: dict[str, object]) -> str:
    if not answer.get("chosen"):
        return "; no node can run it"
    return "" if answer["chosen"] == answer["node"] else f"; placement would choose {answer['chosen']}"
