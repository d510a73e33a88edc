"""The systemd units: systemd takes them, they name what exists, and the sockets are those that the front end knows."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from clusterhost.cli.main import cli
from clusterhost.frontend.libvirt.listeners import ACTIVATED

PACKAGING = Path(__file__).resolve().parents[2] / "packaging"
SOCKETS = sorted(PACKAGING.glob("*.socket"))
SERVICES = sorted(PACKAGING.glob("*.service"))


def unit(path: Path) -> configparser.ConfigParser:
    """A unit as key and value; one that names a key twice is not among ours."""
    parser = configparser.ConfigParser(interpolation=None, delimiters="=")
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(path)
    return parser


def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (Debian package systemd)")
    for path in (*SOCKETS, *SERVICES):
        # The program and its documentation are not installed where tests run.
        text = path.read_text().replace("/usr/bin/clusterhost", "/bin/true")
        (tmp_path / path.name).write_text(text)
    units = [str(tmp_path / path.name) for path in (*SOCKETS, *SERVICES)]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, timeout=50
    )
    ours = [line for line in done.stderr.splitlines() if "clusterhost" in line]
    assert (done.returncode, ours) == (0, [])


@pytest.mark.parametrize("path", SOCKETS, ids=lambda path: path.name)
def test_a_socket_is_known_by_its_name_and_started_after_what_it_takes_the_place_of(path: Path) -> None:
    socket = unit(path)
    assert socket["Socket"]["FileDescriptorName"] == path.name
    assert path.name in ACTIVATED
    assert socket["Socket"]["Service"] == "clusterhost.service"
    assert socket["Unit"]["After"] == socket["Unit"]["Conflicts"]


def test_the_group_of_a_socket_is_made_with_the_package() -> None:
    groups = {unit(path)["Socket"].get("SocketGroup", "root") for path in SOCKETS} - {"root"}
    made = {
        line.split()[1]
        for line in (PACKAGING / "clusterhost.sysusers").read_text().splitlines()
        if line.startswith("g ")
    }
    assert groups == made == {"libvirt"}


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_a_service_runs_a_command_that_exists(path: Path) -> None:
    service = unit(path)["Service"]
    assert service["Type"] == "notify"
    for key in {"ExecStart", "ExecStartPre"} & set(service):
        program, command, *options = service[key].split()
        assert program == "/usr/bin/clusterhost"
        told = CliRunner().invoke(cli, [command, "--help"])
        assert told.exit_code == 0
        assert all(word in told.output for word in options if word.startswith("--"))
