"""Ask the front end through its admin socket: JSON lines, blocking.  Knows no call and prints nothing."""

from __future__ import annotations

import json
import os
import socket
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from clusterhost.cli.errors import NO_FRONT_END, USAGE, Failure, failure

Progress = Callable[[int, int, str], None]

DEFAULT_CONFIG = "/etc/clusterhost/clusterhost.toml"
DEFAULT_STATE = "/var/lib/clusterhost"
ENVIRONMENT = "CLUSTERHOST_ADMIN"


def ask(call: str, progress: Progress | None = None, **args: object) -> Any:
    """Call a method of the front end, found by the options of the command in progress; Failure."""
    options = click.get_current_context().obj or {}
    given = {name: value for name, value in args.items() if value is not None}
    return ask_at(admin_socket(options.get("socket"), options.get("config")), call, given, progress)


def ask_at(path: str, call: str, args: dict[str, object], progress: Progress | None = None) -> Any:
    """Call a method at a socket; Failure with the front end's own sentence."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(path)
            connection.sendall(json.dumps({"call": call, "args": args}).encode() + b"\n")
            with connection.makefile("rb") as lines:
                return _result(lines, progress)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            text = f"no front end answers at {path}: {reason}; is `clusterhost serve` running?"
            raise Failure(text, NO_FRONT_END) from error
    raise AssertionError("unreachable")


def admin_socket(path: str | None, config: str | None) -> str:
    """--socket, else what --config says, else the environment, else what the usual configuration says."""
    if path:
        return path
    if config is None and (named := os.environ.get(ENVIRONMENT)):
        return named
    return _named_in(Path(config or DEFAULT_CONFIG), must_exist=config is not None)


def _named_in(config: Path, *, must_exist: bool) -> str:
    """Read with the standard library alone: checking a whole configuration would cost more than the call."""
    try:
        cluster = tomllib.loads(config.read_text()).get("cluster", {})
    except OSError as error:
        if must_exist:
            raise Failure(f"{config} cannot be read: {error.strerror}", USAGE) from error
        cluster = {}
    except tomllib.TOMLDecodeError as error:
        raise Failure(f"{config} is not TOML: {error}", USAGE) from error
    return str(cluster.get("admin_socket") or Path(cluster.get("state_dir", DEFAULT_STATE)) / "admin.sock")


def _result(lines: Any, progress: Progress | None) -> Any:
    for line in lines:
        message = json.loads(line)
        if "progress" in message:
            if progress is not None:
                progress(*message["progress"])
        elif "error" in message:
            raise failure(message["error"]["kind"], message["error"]["text"])
        else:
            return message["result"]
    raise Failure("the front end ended the connection before it answered", NO_FRONT_END)
