"""The doctor: what it says of a libvirtd, a machine and a front end that are not as they should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clusterhost.config import Settings
from clusterhost.control import keys
from clusterhost.doctor import front, machine, node
from clusterhost.doctor.finding import Finding, Level, bad, good, healthy, warning
from clusterhost.doctor.front import FrontEndSilent, check_front

STATUS = {"epoch": 3, "nodes": 2, "domains": 5, "clashes": ["web is on n1 and on n2"]}


def _named(findings: list[Finding], check: str) -> Finding:
    return next(finding for finding in findings if finding.check == check)


def test_only_what_is_bad_makes_it_ill() -> None:
    assert healthy([good("a", "x"), warning("b", "y", "z")])
    assert not healthy([good("a", "x"), bad("b", "y", "z")])


async def test_a_libvirtd_that_does_not_answer_is_bad_and_it_is_said_how_to_start_it(tmp_path: Path) -> None:
    findings = await node.check_node(f"qemu+unix:///system?socket={tmp_path}/none", local=False)
    assert [finding.level for finding in findings] == [Level.BAD]
    assert "libvirtd.socket" in findings[0].mend


@pytest.mark.parametrize("uri", ["qemu+carrier-pigeon:///system", "nonsense"])
async def test_a_uri_that_cannot_be_used_is_bad(uri: str) -> None:
    assert not healthy(await node.check_node(uri, local=False))


def test_every_finding_about_a_machine_that_is_not_good_says_how_to_mend_it() -> None:
    for finding in machine.check_machine("127.0.0.1"):
        assert finding.found
        assert (finding.level is Level.GOOD) == (not finding.mend)


def test_a_migration_address_where_others_reach_themselves_is_bad() -> None:
    findings = list(machine.check_machine("127.0.0.1"))
    assert _named(findings, "migration address").level is Level.BAD


@pytest.fixture
def configured(tmp_path: Path) -> Path:
    path = tmp_path / "clusterhost.toml"
    path.write_text(
        f'[cluster]\nstate_dir = "{tmp_path}"\n[listen]\nunix_sock_dir = "{tmp_path}"\nmax_clients = 10\n'
        f'[control]\ncontrol = "ipc://{tmp_path}/c"\nbulk = "ipc://{tmp_path}/b"\n'
    )
    keys.save(tmp_path / "control.key", keys.new_pair())
    return path


def _silent(settings: Settings) -> Any:
    def ask(call: str) -> Any:
        raise FrontEndSilent("no front end answers")

    return ask


def _speaking(nodes: list[dict[str, str]]) -> Any:
    def asker(settings: Settings) -> Any:
        return {"status": STATUS, "node.list": nodes}.__getitem__

    return asker


async def test_a_front_end_that_is_not_there_is_bad_but_its_store_is_looked_at(configured: Path) -> None:
    findings = await check_front(configured, _silent)
    assert _named(findings, "front end").level is Level.BAD
    assert _named(findings, "store").level is Level.GOOD
    assert _named(findings, "control key").level is Level.GOOD


async def test_a_key_that_others_may_read_is_bad(configured: Path) -> None:
    (configured.parent / "control.key").chmod(0o644)
    finding = _named(await check_front(configured, _silent), "control key")
    assert finding.level is Level.BAD
    assert "chmod 600" in finding.mend


async def test_a_configuration_that_is_wrong_is_all_there_is_to_say(configured: Path) -> None:
    configured.write_text("[cluster]\nnmae = 1\n")
    findings = await check_front(configured, _silent)
    assert [finding.check for finding in findings] == ["configuration"]
    assert "unknown key 'nmae'" in findings[0].found


async def test_agents_that_are_lost_and_names_that_clash_are_told(configured: Path) -> None:
    nodes = [{"name": "n1", "link": "up"}, {"name": "n2", "link": "out-of-reach", "reason": "silent for 4 s"}]
    findings = await check_front(configured, _speaking(nodes))
    agents = [finding for finding in findings if finding.check == "agents"]
    assert [finding.level for finding in agents] == [Level.GOOD, Level.BAD]
    assert "silent for 4 s" in agents[1].found
    assert _named(findings, "names").level is Level.WARNING
    assert _named(findings, "clients").level is Level.BAD


def test_ports_that_are_taken_are_told() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = Settings.model_validate(
            {"control": {"control": f"tcp://127.0.0.1:{port}", "bulk": "tcp://127.0.0.1:0"}}
        )
        levels = [finding.level for finding in front._free_ports(settings)]
    assert levels == [Level.BAD, Level.GOOD]
