"""The process that an agent runs in, for its whole life: settings come checked.  Imports nothing that only checks them.

`clusterhost agent` reads the configuration and becomes this: pydantic, click and what they load would be 15 MB in
every agent, for values that never change.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from clusterhost import log, notify
from clusterhost.agent.agent import run
from clusterhost.control.keys import KeyFileError, TokenError
from clusterhost.model.errors import ClusterError

PATHS = ("state_dir", "key_file", "peer_dir")
FAILED = 1


def become(settings: Mapping[str, Any], config: Path) -> NoReturn:
    """Be this process from now on, with config.AgentSettings as plain values; the pid stays.

    They go through a file without a name: one of them is a token, and everybody can read arguments.  config: where they
    are from, for who looks at processes."""
    descriptor = os.memfd_create("settings", 0)
    os.write(descriptor, json.dumps(settings).encode())
    os.lseek(descriptor, 0, os.SEEK_SET)
    words = ("-m", __name__, "agent", "--config", str(config), str(descriptor))
    os.execv(sys.executable, [sys.executable, *words])


def main() -> None:
    """Until a signal."""
    with open(int(sys.argv[-1]), "rb") as file:
        given = json.load(file)
    settings = SimpleNamespace(**{**given, **{name: Path(given[name]) for name in PATHS}})
    log.configure(SimpleNamespace(**given["log"]))
    try:
        _run(settings)
    except (ClusterError, KeyFileError, TokenError, OSError) as error:
        # What an operator can mend is one sentence, as in cli.errors.
        sys.exit(_failed(_words(error)))


def _run(settings: Any) -> None:
    try:
        import uvloop
    except ImportError:
        asyncio.run(_announced(settings))
    else:
        uvloop.run(_announced(settings))


async def _announced(settings: Any) -> None:
    """Ready means that it runs: a front end out of reach is no reason for systemd to restart an agent."""
    notify.ready(f"agent of node {settings.node}")
    try:
        await run(settings)
    finally:
        notify.stopping()


def _words(error: Exception) -> str:
    if isinstance(error, PermissionError | FileNotFoundError | ConnectionError) and error.filename:
        return f"{error.strerror}: {error.filename}"
    return str(error)


def _failed(text: str) -> int:
    print(f"error: {text}", file=sys.stderr)
    return FAILED


if __name__ == "__main__":
    main()
