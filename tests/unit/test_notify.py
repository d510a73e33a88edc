"""systemd's notification socket, as systemd would hold it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from clusterhost import notify


def test_without_systemd_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify.ready()


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_readiness_arrives_with_its_status(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = str(tmp_path / "notify") if kind == "path" else f"@clusterhost-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + shown[1:] if kind == "abstract" else shown)
        monkeypatch.setenv("NOTIFY_SOCKET", shown)
        assert notify.ready("3 nodes")
        assert notify.stopping()
        assert systemd.recv(100) == b"READY=1\nSTATUS=3 nodes"
        assert systemd.recv(100) == b"STOPPING=1"


def test_a_socket_that_is_gone_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    assert not notify.alive()


def test_the_watchdog_is_fed_twice_in_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert notify.watchdog_interval() == 5.0
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert notify.watchdog_interval() is None
