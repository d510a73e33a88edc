"""Print what the front end answered: a table for people, JSON for programs.  Knows no noun."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

Row = Mapping[str, Any]
Columns = Mapping[str, str]
"""Key in a row -> heading."""
Writer = Callable[[Sequence[Row], Columns], None]


def rows(found: Sequence[Row], columns: Columns, form: str) -> None:
    """Print a list in the chosen format."""
    _WRITERS[form](found, columns)


def one(found: Row, form: str) -> None:
    """Print one thing: its keys down the page, or JSON."""
    if form == "json":
        click.echo(json.dumps(found, indent=2))
        return
    width = max((len(key) for key in found), default=0)
    for key, value in found.items():
        click.echo(f"{key.replace('_', ' ') + ':':{width + 2}}{text(key, value)}")


def text(key: str, value: object) -> str:
    """A value as people read it; the key's ending tells the unit."""
    for ending, form in _FORMS.items():
        if key.endswith(ending) and isinstance(value, int | float) and not isinstance(value, bool):
            return form(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value in ("", [], {}):
        return "-"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return str(value)


@contextlib.contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar on standard error where that is a terminal, else one line for each new step."""
    if not sys.stderr.isatty():
        yield _steps()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    parts = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*parts, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)

        def update(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total or None, description=what or title)

        yield update


def format_option(command: Any) -> Any:
    """--format table|json, also by CLUSTERHOST_FORMAT."""
    return click.option(
        "--format",
        "-f",
        "form",
        type=click.Choice(list(_WRITERS)),
        default="table",
        envvar="CLUSTERHOST_FORMAT",
        show_default=True,
        help="A table for people or JSON for programs.",
    )(command)


def admin_options(command: Any) -> Any:
    """--socket and --config, which may stand before or after the command's name."""

    def keep(ctx: click.Context, option: click.Parameter, value: str | None) -> None:
        if value is not None:
            ctx.ensure_object(dict)[str(option.name)] = value

    for name, metavar, about in (
        ("--config", "FILE", "clusterhost.toml, which names the admin socket."),
        ("--socket", "PATH", "Admin socket of the front end (or CLUSTERHOST_ADMIN)."),
    ):
        command = click.option(name, metavar=metavar, help=about, expose_value=False, callback=keep)(command)
    return command


def copy_storage_option(command: Any) -> Any:
    """--copy-storage all|inc, of commands that move running domains."""
    return click.option(
        "--copy-storage",
        type=click.Choice(["all", "inc"]),
        help="Copy disks that nodes do not share: whole, or (inc) what is above a base image that both have.",
    )(command)


def _steps() -> Callable[[int, int, str], None]:
    last = ""

    def update(done: int, total: int, what: str) -> None:
        nonlocal last
        if what and what != last:
            last = what
            click.echo(what, err=True)

    return update


def _table(found: Sequence[Row], columns: Columns) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for key, heading in columns.items():
        number = any(isinstance(row.get(key), int | float) for row in found)
        table.add_column(heading, justify="right" if number else "left", overflow="fold")
    for row in found:
        table.add_row(*(text(key, row.get(key)) for key in columns))
    # A pipe has no width of its own: what reads it wants whole lines.
    console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 10_000)
    with console.capture() as captured:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _json(found: Sequence[Row], columns: Columns) -> None:
    click.echo(json.dumps(list(found), indent=2))


_WRITERS: dict[str, Writer] = {"table": _table, "json": _json}


def _kib(value: float) -> str:
    return f"{value / 1048576:.1f} GiB" if value >= 1048576 else f"{value / 1024:.0f} MiB"


def _time(value: float) -> str:
    return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S") if value else "-"


def _bytes(value: float) -> str:
    return (
        f"{value:.0f} B"
        if value < 1024
        else _kib(value / 1024)
        if value >= 1048576
        else f"{value / 1024:.0f} KiB"
    )


_FORMS: dict[str, Callable[[float], str]] = {
    "_bytes": _bytes,
    "_kib": _kib,
    "since": _time,
    "synced": _time,
    "last_used": _time,
    "started": _time,
    "finished": _time,
    "created": _time,
}


def with_nodes(found: dict[str, Any], columns: Mapping[str, str], form: str) -> None:
    """One record, and below it a table of what each node says of it ("nodes")."""
    if form == "json":
        one(found, form)
        return
    one({key: value for key, value in found.items() if key != "nodes"}, form)
    if found["nodes"]:
        click.echo()
        rows(found["nodes"], columns, form)
