"""A PostgreSQL of our own in a temporary directory, from Debian's packages; installs nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from itertools import count
from pathlib import Path

import psycopg

USER = "postgres"


def _binary(name: str) -> str | None:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name)


def missing() -> str:
    """Why there can be none here, "" when there can."""
    if _binary("initdb") is None or _binary("postgres") is None:
        return "PostgreSQL's server is not installed (Debian package postgresql-15)"
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        return "setpriv is not installed (Debian package util-linux): PostgreSQL does not run as root"
    return ""


class PrivatePostgres:
    """One server; each `new_database` is empty.  durable: sync to the disk (tests cut no power)."""

    def __init__(self, *, durable: bool = False) -> None:
        self._sync = "on" if durable else "off"
        self.directory = Path(tempfile.mkdtemp(prefix="clusterhost-pg-"))
        self._numbers = count(1)
        self._server: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            shutil.chown(self.directory, USER, USER)
        initdb = [str(_binary("initdb")), "-D", self._data, "-U", USER, "-A", "trust", "-N", "-E", "UTF8"]
        subprocess.run([*self._as_user(), *initdb, "--no-locale"], check=True, capture_output=True, cwd="/")

    def start(self) -> None:
        """Return when it takes connections.  It ends with the *thread* that started it: use the main one."""
        argv = [str(_binary("postgres")), "-D", self._data, "-k", str(self.directory)]
        argv += ["-c", "listen_addresses=", "-c", f"fsync={self._sync}", "-c", "shared_buffers=16MB"]
        with (self.directory / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [*self._as_user(), *argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/"
            )
        deadline = time.monotonic() + 20
        while True:
            try:
                self.execute("SELECT 1")
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """SIGQUIT: at once, as a crash does.  SIGINT: in order."""
        if self._server is not None:
            self._server.send_signal(how)
            self._server.wait(20)
            self._server = None

    def remove(self) -> None:
        """Stop it and remove its directory."""
        self.stop()
        shutil.rmtree(self.directory)

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"d{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://{USER}@/{name}?host={self.directory}"

    def execute(self, sql: str, database: str = USER) -> list[tuple[object, ...]]:
        """Run a statement as the superuser; its rows."""
        with psycopg.connect(
            host=str(self.directory), user=USER, dbname=database, autocommit=True, connect_timeout=5
        ) as connection:
            cursor = connection.execute(sql)  # type: ignore[call-overload]
            return list(cursor.fetchall()) if cursor.description else []

    def signal_all(self, number: signal.Signals) -> None:
        """Signal the server and all its processes (SIGSTOP: it hangs, SIGCONT: it goes on)."""
        assert self._server is not None
        pid = self._server.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for process in [pid, *map(int, children)]:
            os.kill(process, number)

    @property
    def _data(self) -> str:
        return str(self.directory / "data")

    def _as_user(self) -> list[str]:
        if os.geteuid() != 0:
            return []
        # With --pdeathsig it ends when the test's process is killed.
        return [
            "setpriv",
            f"--reuid={USER}",
            f"--regid={USER}",
            "--clear-groups",
            "--pdeathsig",
            "QUIT",
            "--",
        ]
