"""`clusterhost init`, `serve` and `agent`: read the configuration, hand over.  They alone need all of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click

from clusterhost import config as configuration
from clusterhost import log
from clusterhost.cli.errors import FAILED, USAGE, Failure
from clusterhost.config import AgentSettings, ConfigError, Settings

T = TypeVar("T", Settings, AgentSettings)


def config_options(default: Path) -> Callable[[Any], Any]:
    """--config, --check-config, --dump-config."""

    def add(command: Any) -> Any:
        for flag, about in (
            ("--dump-config", "Print the settings in use, defaults filled in, and exit."),
            ("--check-config", "Check the configuration and exit."),
        ):
            command = click.option(flag, is_flag=True, help=about)(command)
        return _config_option(default)(command)

    return add


def _config_option(default: Path) -> Callable[[Any], Any]:
    return click.option(
        "--config",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help=f"Configuration [default: {default}].",
    )


@click.command()
@_config_option(configuration.DEFAULT_PATH)
@click.pass_context
def init(ctx: click.Context, config: Path | None) -> None:
    """Make the state directory, the control key and the store that the configuration names.

    Writes a configuration with the usual values first when there is none.  What exists is kept.
    """
    path = _chosen(ctx, config, configuration.DEFAULT_PATH)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(configuration.dump(Settings()))
        click.echo(f"wrote {path}")
    settings = _load(configuration.load, path)
    _as_failure(lambda: _make(settings))


@click.command()
@config_options(configuration.DEFAULT_PATH)
@click.pass_context
def serve(ctx: click.Context, config: Path | None, check_config: bool, dump_config: bool) -> None:
    """Run the front end: what clients and agents connect to."""
    path = _chosen(ctx, config, configuration.DEFAULT_PATH)
    settings = _load(configuration.load, path)
    if check_config or dump_config:
        _tell(settings, path, dump=dump_config)
        return
    from clusterhost import daemon

    log.configure(settings.log)
    _as_failure(lambda: _run(daemon.serve(settings)))


@click.command()
@config_options(configuration.DEFAULT_AGENT_PATH)
@click.pass_context
def agent(ctx: click.Context, config: Path | None, check_config: bool, dump_config: bool) -> None:
    """Run the agent of one node: what relays calls to its libvirtd."""
    path = _chosen(ctx, config, configuration.DEFAULT_AGENT_PATH)
    settings = _load(configuration.load_agent, path)
    if check_config or dump_config:
        _tell(settings, path, dump=dump_config)
        return
    from clusterhost.cli.agent import become

    become(settings.model_dump(mode="json"), path)


def _chosen(ctx: click.Context, given: Path | None, default: Path) -> Path:
    before = (ctx.obj or {}).get("config")
    return given or (Path(before) if before else default)


def _load(read: Callable[[Path], T], path: Path) -> T:
    try:
        return read(path)
    except ConfigError as error:
        raise Failure(str(error), USAGE) from error


def _tell(settings: Settings | AgentSettings, path: Path, *, dump: bool) -> None:
    click.echo(configuration.dump(settings) if dump else f"{path} is good", nl=not dump)


def _make(settings: Settings) -> None:
    from clusterhost.control import keys
    from clusterhost.store.store import Store

    settings.cluster.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not settings.control.key_file.exists():
        keys.save(settings.control.key_file, keys.new_pair())
        click.echo(f"made the control key {settings.control.key_file}")

    async def make_store() -> None:
        await (await Store.open(settings.store.url, now=time.time())).close()

    asyncio.run(make_store())
    click.echo(f"the store is ready: {settings.store.url.split('@')[-1]}")


def _run(main: Coroutine[Any, Any, None]) -> None:
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


def _as_failure(act: Callable[[], None]) -> None:
    """What an operator can mend becomes one sentence; anything else keeps its traceback."""
    from clusterhost.control.keys import KeyFileError, TokenError
    from clusterhost.frontend.admin import SocketInUse
    from clusterhost.model.errors import ClusterError

    try:
        act()
    except (ClusterError, ConfigError, KeyFileError, SocketInUse, TokenError) as error:
        raise Failure(str(error), FAILED) from error
    except (PermissionError, FileNotFoundError, ConnectionError) as error:
        raise Failure(
            f"{error.strerror}: {error.filename}" if error.filename else str(error), FAILED
        ) from error
    except OSError as error:
        raise Failure(str(error), FAILED) from error
