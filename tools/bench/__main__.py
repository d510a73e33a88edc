"""Make a cluster, measure it, print the table, remove it.  The exit code tells failures, never slowness."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from clusterhost.demo import cluster
from tools.bench import cases, scene
from tools.bench.measure import Limit, Result, Size


def main() -> int:
    """Exit code 0 when everything could be measured."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument(
        "--only", metavar="NAME", action="append", help="measure what has NAME in its name or group"
    )
    options = parser.parse_args()
    state = Path(tempfile.mkdtemp(prefix="ch-bench-"))
    try:
        measured = scene.build(state, _say)
        results = list(cases.run(measured, _say, options.only or [""]))
        sizes = scene.sizes(measured)
        measured.direct.close()
        measured.cluster.close()
    finally:
        cluster.down(state, _say)
    (_print_json if options.format == "json" else _print_table)(results, sizes)
    return 0


def _say(line: str) -> None:
    print(f"bench: {line}", file=sys.stderr, flush=True)


def _print_json(found: list[Result | Limit], sizes: list[Size]) -> None:
    rows = [
        {
            **asdict(result),
            "met": result.met,
            **({"ratio": result.ratio} if isinstance(result, Result) else {}),
        }
        for result in found
    ]
    print(
        json.dumps(
            {"results": rows, "sizes": [{**asdict(size), "met": size.met} for size in sizes]}, indent=2
        )
    )


def _print_table(found: list[Result | Limit], sizes: list[Size]) -> None:
    table = Table("Call", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in ("node's own", "cluster", "", "ratio", "target"):
        table.add_column(heading, justify="left" if not heading else "right")
    table.add_column("")
    for result in found:
        verdict = "met" if result.met else "missed"
        if isinstance(result, Limit):
            table.add_row(
                result.case, "", f"{result.value:,.2f}", result.unit, "", f"≤ {result.target:.1f}", verdict
            )
            continue
        bound = "≥" if result.more_is_better else "≤"
        numbers = (f"{result.direct:,.1f}", f"{result.cluster:,.1f}", result.unit, f"{result.ratio:.2f}")
        table.add_row(result.case, *numbers, f"{bound} {result.target:.1f}", verdict)
    for size in sizes:
        verdict = "met" if size.met else "missed"
        table.add_row(
            f"{size.process}, resident", "", f"{size.mb:.0f}", "MB", "", f"≤ {size.target:.0f}", verdict
        )
    console = Console(markup=False, highlight=False, width=120)
    console.print(f"{platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
