"""`clusterhost image`: what it asks for, and the exit codes that scripts go by; over a real admin socket."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from clusterhost.cli.main import cli
from clusterhost.config import Settings
from clusterhost.frontend.admin import AdminServer
from clusterhost.model.errors import InvalidOperation, VolumeNotFound

SPREAD = {"image": "base", "node": "n1", "ok": True, "received_bytes": 5, "seconds": 0.1, "reason": ""}
EVICTED = {"image": "base", "pool": "p", "node": "n1", "evicted": True, "allocated_bytes": 5, "reason": ""}
FOUND = {
    "pool": "p",
    "image": "base",
    "node": "n1",
    "problem": "part",
    "text": "left",
    "mended": "",
    "allocated_bytes": 5,
}
SHOWN = {
    "name": "top",
    "pool": "p",
    "nodes": ["n1"],
    "shared": False,
    "chain": [{"image": "top", "pool": "p", "format": "qcow2", "path": "/p/top"}],
    "copies": [{"node": "n1", "state": "whole", "current": True, "generation": 0, "digest": "ab"}],
    "users": [],
}


class Front:
    """asked: calls and their arguments; answers: by call, an exception for a refusal."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, Any] = {}

    def method(self, call: str) -> Any:
        async def answer(world: Any, args: dict[str, Any], progress: Any) -> object:
            self.asked.append((call, args))
            found = self.answers[call]
            if isinstance(found, Exception):
                raise found
            return found

        return answer


CALLS = ("list", "show", "copies", "distribute", "evict", "verify", "flatten", "pin")


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    found = Front()
    settings = Settings.model_validate({"cluster": {"state_dir": tmp_path}})
    loop = asyncio.new_event_loop()
    server = AdminServer(settings, None, {f"image.{call}": found.method(call) for call in CALLS})
    loop.run_until_complete(server.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield found
    asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def run(tmp_path: Path, *words: str) -> Result:
    return CliRunner().invoke(cli, ["--socket", str(tmp_path / "admin.sock"), "image", *words])


@pytest.mark.parametrize(
    "words",
    [
        ("distribute", "base"),
        ("distribute", "base", "--all", "--to", "n1"),
        ("distribute", "base", "--to", "n1,,n2"),
        ("evict", "base"),
        ("evict", "--node", "n1"),
        ("evict", "base", "--older-than", "30"),
        ("evict", "base", "--older-than", "5w"),
        ("evict", "base", "--older-than", "5d", "--force"),
        ("pin", "base", "--node", ","),
        ("verify", "--delete-incomplete"),
    ],
)
def test_half_a_command_asks_for_nothing(words: tuple[str, ...], front: Front, tmp_path: Path) -> None:
    answer = run(tmp_path, *words)
    assert answer.exit_code == 2
    assert answer.output.startswith("error: ")
    assert front.asked == []


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 1)])
def test_the_exit_code_says_whether_all_nodes_have_it(
    ok: bool, code: int, front: Front, tmp_path: Path
) -> None:
    front.answers["distribute"] = [SPREAD, {**SPREAD, "node": "n2", "ok": ok}]
    answer = run(tmp_path, "distribute", "base", "--to", "n1, n2", "--format", "json")
    assert answer.exit_code == code
    assert [row["ok"] for row in json.loads(answer.stdout)] == [True, ok]
    assert front.asked == [("distribute", {"image": "base", "nodes": ["n1", "n2"]})]


def test_all_nodes_are_no_list(front: Front, tmp_path: Path) -> None:
    front.answers["distribute"] = [SPREAD]
    assert run(tmp_path, "distribute", "base", "--all", "--pool", "p").exit_code == 0
    assert front.asked == [("distribute", {"image": "base", "pool": "p"})]


@pytest.mark.parametrize(
    ("given", "seconds"), [("90s", 90), ("5m", 300), ("12h", 43200), ("30d", 2592000), ("0s", 0)]
)
def test_a_time_has_a_unit(given: str, seconds: int, front: Front, tmp_path: Path) -> None:
    front.answers["evict"] = []
    assert run(tmp_path, "evict", "--older-than", given).exit_code == 0
    assert front.asked == [("evict", {"older_than": seconds})]


def test_a_pin_is_given_and_taken_back(front: Front, tmp_path: Path) -> None:
    front.answers["pin"] = {"image": "base", "pool": "p", "pinned": ["n1", "n2"]}
    assert run(tmp_path, "pin", "base", "--node", "n2").stdout == "base is pinned on n1, n2\n"
    front.answers["pin"] = {"image": "base", "pool": "p", "pinned": []}
    assert run(tmp_path, "unpin", "base", "--pool", "p").stdout == "base is pinned on no node\n"
    assert front.asked == [
        ("pin", {"image": "base", "nodes": ["n2"], "on": True}),
        ("pin", {"image": "base", "pool": "p", "on": False}),
    ]


def test_what_stayed_is_told_by_the_exit_code(front: Front, tmp_path: Path) -> None:
    front.answers["evict"] = [EVICTED, {**EVICTED, "node": "n2", "evicted": False, "reason": "in use"}]
    answer = run(tmp_path, "evict", "base", "--older-than", "1d")
    assert answer.exit_code == 1
    assert "in use" in answer.stdout


@pytest.mark.parametrize(("findings", "code"), [([], 0), ([FOUND], 1), ([{**FOUND, "mended": "removed"}], 0)])
@pytest.mark.parametrize("form", ["table", "json"])
def test_a_check_fails_while_something_is_not_mended(
    findings: list[dict[str, Any]], code: int, form: str, front: Front, tmp_path: Path
) -> None:
    front.answers["verify"] = {"images": 1, "copies_read": 2, "images_busy": 0, "findings": findings}
    answer = run(tmp_path, "verify", "--repair", "--again", "--format", form)
    assert answer.exit_code == code
    assert ("base" in answer.stdout) == bool(findings)
    assert front.asked == [("verify", {"again": True, "repair": True, "drop": False})]


def test_an_image_is_shown_in_parts(front: Front, tmp_path: Path) -> None:
    front.answers["show"] = SHOWN
    told = run(tmp_path, "show", "top").stdout
    assert "/p/top" in told
    assert "whole" in told
    assert json.loads(run(tmp_path, "show", "top", "-f", "json").stdout) == SHOWN


def test_lists_of_images_and_copies_are_tables(front: Front, tmp_path: Path) -> None:
    row = {
        "name": "base",
        "pool": "p",
        "state": "whole",
        "capacity_bytes": None,
        "copies": 2,
        "nodes": ["n1", "n2"],
    }
    front.answers |= {"list": [row], "copies": SHOWN["copies"]}
    assert "n1, n2" in run(tmp_path, "list", "--pool", "p").stdout
    assert "whole" in run(tmp_path, "copies", "base").stdout
    assert front.asked[0] == ("list", {"pool": "p"})


@pytest.mark.parametrize(("error", "code"), [(VolumeNotFound("no"), 3), (InvalidOperation("no"), 1)])
def test_a_refusal_is_a_sentence_and_a_code(
    error: Exception, code: int, front: Front, tmp_path: Path
) -> None:
    front.answers["flatten"] = error
    answer = run(tmp_path, "flatten", "base")
    assert (answer.exit_code, answer.output) == (code, "error: no\n")
