"""The front end as systemd runs it: sockets handed over, readiness and watchdog told, a clean stop."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stock import Virsh, eventually

CONFIG = """[cluster]
name = "activated"
hostname = "activated"
state_dir = "{directory}/state"

[control]
control = "tcp://127.0.0.1:{control}"
bulk = "tcp://127.0.0.1:{bulk}"
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def told() -> Iterator[socket.socket]:
    """Where systemd would listen."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("")
        listener.settimeout(40)
        yield listener


def test_sockets_readiness_watchdog_and_a_clean_stop(tmp_path: Path, told: socket.socket) -> None:
    if shutil.which("systemd-socket-activate") is None:
        pytest.skip("systemd-socket-activate is not installed (Debian package systemd)")
    config = tmp_path / "clusterhost.toml"
    config.write_text(CONFIG.format(directory=tmp_path, control=free_port(), bulk=free_port()))
    paths = [tmp_path / "rw", tmp_path / "ro"]
    command = ["systemd-socket-activate", "--fdname=clusterhost.socket:clusterhost-ro.socket"]
    command += [f"--listen={path}" for path in paths]
    address = "@" + told.getsockname()[1:].decode()
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"}
    command += [f"--setenv={name}={value}" for name, value in environment.items()]
    command += [f"--setenv={name}" for name in ("PYTHONPATH", "CLUSTERHOST_TESTS") if name in os.environ]
    command += [sys.executable, "-m", "clusterhost", "serve", "--config", str(config)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        eventually(lambda: all(path.exists() for path in paths), 10, "systemd listens")
        for path in paths:
            virsh = Virsh(f"qemu+unix:///system?socket={path}")
            assert virsh("uri") == f"qemu+unix:///system?socket={path}", "the first client starts it"
        assert told.recv(1000).startswith(b"READY=1\nSTATUS=cluster activated")
        assert told.recv(1000) == b"WATCHDOG=1"
        began = time.monotonic()
        assert told.recv(1000) == b"WATCHDOG=1"
        assert time.monotonic() - began < 1, "twice in the time that systemd allows"
        process.send_signal(signal.SIGTERM)
        while (state := told.recv(1000)) == b"WATCHDOG=1":
            pass
        assert state == b"STOPPING=1"
        assert process.wait(20) == 0, (tmp_path / "log").read_text()
        assert all(path.exists() for path in paths), "they are systemd's to remove"
    finally:
        process.kill()
        process.wait()
