"""The clusterhost command, run as a process against a real admin socket that serves a few calls."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from clusterhost.cli.main import COMMANDS, cli
from clusterhost.config import Settings
from clusterhost.frontend.admin import AdminServer, SocketInUse
from clusterhost.model.errors import DomainNotFound, NodeUnreachable, NoPlacement

NODES = [{"name": "n1", "cell": 0, "admin": "enabled", "link": "up", "memory_kib": 2097152, "since": 0.0}]


async def _nodes(world: Any, args: dict[str, Any], progress: Any) -> object:
    return NODES


async def _move(world: Any, args: dict[str, Any], progress: Any) -> object:
    progress(1, 4, "memory is copied")
    await asyncio.sleep(0)
    return {"domain": args["domain"], "node": args["to"]}


def _fails(error: Exception) -> Any:
    async def method(world: Any, args: dict[str, Any], progress: Any) -> object:
        raise error

    return method


METHODS = {
    "node.list": _nodes,
    "domain.move": _move,
    "domain.where": _fails(DomainNotFound("no domain with matching name 'web'")),
    "domain.show": _fails(NodeUnreachable("node n2 is out of reach")),
    "placement.explain": _fails(NoPlacement("no node fits")),
    "status": _fails(RuntimeError("a mistake of ours")),
}

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.model_validate({"cluster": {"state_dir": tmp_path}})


@pytest.fixture
def served(settings: Settings) -> Iterator[Settings]:
    """An AdminServer with METHODS on a loop of its own."""
    loop = asyncio.new_event_loop()
    server = AdminServer(settings, None, METHODS)
    loop.run_until_complete(server.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield settings
    asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def run(settings: Settings) -> Run:
    def run_(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "CLUSTERHOST_ADMIN": str(settings.cluster.admin_socket), **environment}
        command = [sys.executable, "-m", "clusterhost", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=30)

    return run_


def test_help_lists_every_command_without_importing_one(run: Run) -> None:
    answer = run("--help")
    assert answer.returncode == 0
    assert all(name in answer.stdout for name in COMMANDS)
    script = (
        "import sys, clusterhost.cli.main\n"
        "print([m for m in ('sqlalchemy', 'zmq', 'rich', 'pydantic') if m in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, run: Run) -> None:
    assert run(name, "--help").returncode == 0


ACTS = {
    *("init", "serve", "agent", "node enable", "node disable", "node remove", "node set"),
    *("demo up", "demo down", "demo power-cut", "demo power-on", "demo partition", "demo heal"),
    *("network lease hold", "network lease reserve", "network lease release"),
    *("pool set", "image seed", "image import", "image flatten", "endpoint"),
    *("image pin", "image unpin"),
}
"""Commands that do something and say so in a line, or whose line is for `virsh -c`; every other one shows something."""


def commands(command: click.Command, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command of the tree with the words that call it."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from commands(found, f"{path} {name}".strip())


def test_whatever_shows_something_takes_the_format_of_its_choice() -> None:
    found = dict(commands(cli))
    assert set(found) > ACTS
    for words, command in found.items():
        formats = [option for option in command.params if option.name == "form"]
        assert len(formats) == (words not in ACTS), words
        for option in formats:
            assert option.opts == ["--format", "-f"], words
            assert list(option.type.choices) == ["table", "json"], words  # type: ignore[attr-defined]
            assert (option.default, option.envvar) == ("table", "CLUSTERHOST_FORMAT"), words


def test_asking_a_front_end_needs_no_database(served: Settings) -> None:
    script = (
        "import sys\nfrom clusterhost.cli.main import cli\n"
        f"cli(['node', 'list', '--socket', '{served.cluster.admin_socket}'], standalone_mode=False)\n"
        "print([m for m in ('sqlalchemy', 'zmq', 'pydantic') if m in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert loaded.stdout.splitlines()[-1] == "[]"


def test_a_list_is_a_table_for_people(served: Settings, run: Run) -> None:
    answer = run("node", "list")
    assert answer.returncode == 0
    heading, _, row = answer.stdout.splitlines()[:3]
    assert heading.split()[:4] == ["Name", "Cell", "Wanted", "State"]
    assert row.split()[:4] == ["n1", "0", "enabled", "up"]
    assert "2.0 GiB" in row


@pytest.mark.parametrize("way", ["option", "environment"])
def test_a_list_is_json_for_programs(way: str, served: Settings, run: Run) -> None:
    answer = (
        run("node", "list", "-f", "json")
        if way == "option"
        else run("node", "list", CLUSTERHOST_FORMAT="json")
    )
    assert json.loads(answer.stdout) == NODES


def test_the_socket_may_be_named_before_or_after_the_command_or_by_the_configuration(
    served: Settings, run: Run, tmp_path: Path
) -> None:
    path = str(served.cluster.admin_socket)
    config = tmp_path / "clusterhost.toml"
    config.write_text(f'[cluster]\nstate_dir = "{tmp_path}"\n')
    for arguments in (
        ("--socket", path, "node", "list"),
        ("node", "list", "--socket", path),
        ("--config", str(config), "node", "list"),
        ("node", "list", "--config", str(config)),
    ):
        assert run(*arguments, CLUSTERHOST_ADMIN="/nowhere").returncode == 0, arguments


def test_progress_goes_to_standard_error(served: Settings, run: Run) -> None:
    answer = run("domain", "move", "web", "--to", "n2")
    assert answer.stdout == "domain web is on n2\n"
    assert "memory is copied" in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("domain", "where", "web"), 3, "error: no domain with matching name 'web'\n"),
        (("domain", "show", "web"), 5, "error: node n2 is out of reach\n"),
        (("placement", "explain", "web"), 1, "error: no node fits\n"),
        (("status",), 1, "error: status failed: RuntimeError: a mistake of ours\n"),
        (("job", "list"), 1, "error: no call 'job.list'; known: "),
    ],
)
def test_an_error_is_one_sentence_and_a_code(
    arguments: tuple[str, ...], code: int, sentence: str, served: Settings, run: Run
) -> None:
    answer = run(*arguments)
    assert answer.returncode == code
    assert answer.stderr.startswith(sentence)
    assert answer.stdout == ""
    assert len(answer.stderr.splitlines()) == 1


def test_no_front_end_is_said_with_a_code_of_its_own(run: Run) -> None:
    answer = run("node", "list")
    assert answer.returncode == 4
    assert "no front end answers at" in answer.stderr


def test_a_second_front_end_does_not_take_the_socket_over(served: Settings) -> None:
    with pytest.raises(SocketInUse):
        asyncio.run(AdminServer(served, None, METHODS).start())


def test_a_dead_front_ends_socket_is_replaced(settings: Settings) -> None:
    async def start_twice() -> None:
        first = AdminServer(settings, None, METHODS)
        await first.start()
        settings.cluster.admin_socket.rename(settings.cluster.admin_socket.with_name("dead"))
        await first.stop()
        settings.cluster.admin_socket.with_name("dead").rename(settings.cluster.admin_socket)
        second = AdminServer(settings, None, METHODS)
        await second.start()
        assert settings.cluster.admin_socket.stat().st_mode & 0o777 == 0o600
        await second.stop()

    asyncio.run(start_twice())


def test_a_line_that_is_no_request_is_answered(served: Settings) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(served.cluster.admin_socket))
        client.sendall(b'nonsense\n{"call": 1}\n{"call": "node.list"}\n')
        with client.makefile("rb") as lines:
            answers = [json.loads(lines.readline()) for _ in range(3)]
    assert [answer.get("error", {}).get("kind") for answer in answers] == [
        "InvalidArgument",
        "InvalidArgument",
        None,
    ]
    assert answers[2]["result"] == NODES


def test_a_configuration_is_checked_and_dumped(run: Run, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text('[cluster]\nname = "x"\n')
    bad.write_text("[listen]\nlisten_tpc = true\n")
    assert run("serve", "--config", str(good), "--check-config").stdout == f"{good} is good\n"
    assert 'name = "x"' in run("serve", "--config", str(good), "--dump-config").stdout
    refused = run("serve", "--config", str(bad), "--check-config")
    assert refused.returncode == 2
    assert "unknown key 'listen_tpc' in [listen]" in refused.stderr


def test_init_makes_what_is_missing_and_keeps_the_rest(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "clusterhost.toml"
    config.write_text(f'[cluster]\nstate_dir = "{tmp_path}/state"\n')
    assert run("init", "--config", str(config)).returncode == 0
    key = tmp_path / "state" / "control.key"
    made = key.read_text()
    assert key.stat().st_mode & 0o777 == 0o600
    again = run("init", "--config", str(config))
    assert again.returncode == 0, again.stderr
    assert key.read_text() == made
