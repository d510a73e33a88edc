"""A network's dnsmasq: its files, and the process, which outlives us and is found again.  Knows no network."""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import select
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from netmgr import dnsmasq

log = logging.getLogger(__name__)

PROGRAM = "dnsmasq"
USERS = ("dnsmasq", "nobody")
"""Whom it becomes, the first that this node has."""
_PROC = Path("/proc")
_START_SECONDS = 20
_STOP_SECONDS = 3


class ServerFailed(Exception):
    """dnsmasq did not start or end; its own words where it said any."""


class Server:
    """What is in `directory`, which is this network's alone."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._seen: dict[str, tuple[tuple[int, int, int], str]] = {}

    # Reading

    def pid(self) -> int | None:
        """The process, None when it does not run."""
        try:
            pid = int((self.directory / dnsmasq.PID_FILE).read_text())
        except (FileNotFoundError, ValueError):
            return None
        return pid if self._is_ours(pid) else None

    def config(self) -> str:
        """What it was started with, "" when it never was."""
        return self._read(dnsmasq.CONFIG)

    def files(self) -> dict[str, str]:
        """Host files: name below the directory -> text.  Read again only when changed: there may be two thousand."""
        found = {}
        for part in (dnsmasq.DHCP_HOSTS, dnsmasq.NAMES):
            with contextlib.suppress(FileNotFoundError), os.scandir(self.directory / part) as entries:
                for entry in entries:
                    name, about = f"{part}/{entry.name}", entry.stat(follow_symlinks=False)
                    state = about.st_ino, about.st_size, about.st_ctime_ns
                    known = self._seen.get(name)
                    found[name] = (
                        known if known is not None and known[0] == state else (state, self._read(name))
                    )
        self._seen = found
        return {name: text for name, (_, text) in found.items()}

    def leases(self) -> dict[str, dnsmasq.Lease]:
        """Leases that it gave, by address."""
        return dnsmasq.leases(self._read(dnsmasq.LEASES))

    def _read(self, name: str) -> str:
        try:
            return (self.directory / name).read_text()
        except FileNotFoundError:
            return ""

    def _is_ours(self, pid: int) -> bool:
        try:
            return self._argument.encode() in (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
        except OSError:
            return False

    @property
    def _argument(self) -> str:
        return f"--conf-file={self.directory / dnsmasq.CONFIG}"

    # Changing

    def write(self, name: str, text: str) -> None:
        """Replace a file as a whole; dnsmasq leaves names with a dot in front alone."""
        path = self.directory / name
        self._prepare()
        temporary = path.with_name(f".{path.name}")
        temporary.write_text(text)
        temporary.chmod(0o644)
        temporary.replace(path)

    def drop(self, name: str) -> None:
        """Remove a file."""
        (self.directory / name).unlink(missing_ok=True)

    def free(self, addresses: frozenset[str]) -> None:
        """Take leases out of the lease file; dnsmasq must not run."""
        self.write(dnsmasq.LEASES, dnsmasq.without(self._read(dnsmasq.LEASES), addresses))

    def forget(self) -> None:
        """Remove the directory."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self, config: str) -> None:
        """Start it; what runs already from this directory ends first.  ServerFailed."""
        self.stop()
        self.write(dnsmasq.CONFIG, config)
        user = self._user()
        command = [PROGRAM, self._argument, f"--user={user}"]
        if user == "root":
            command.append("--group=root")
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_START_SECONDS,
                check=False,
            )
        except FileNotFoundError:
            raise ServerFailed("dnsmasq is not installed on this node") from None
        except subprocess.TimeoutExpired:
            raise ServerFailed(f"dnsmasq did not start within {_START_SECONDS} seconds") from None
        if done.returncode:
            raise ServerFailed(f"dnsmasq did not start: {' '.join(done.stderr.split())[:400]}")

    def stop(self) -> None:
        """End every dnsmasq of this directory, one whose pid file was lost too."""
        for pid in self._processes():
            self._end(pid)

    def reload(self) -> None:
        """Have it read the host files again."""
        self._signal(self.pid(), signal.SIGHUP)

    def _processes(self) -> Iterator[int]:
        yield from (int(name) for name in os.listdir(_PROC) if name.isdigit() and self._is_ours(int(name)))

    def _end(self, pid: int) -> None:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            for number in (signal.SIGTERM, signal.SIGKILL):
                if not self._is_ours(pid):
                    return
                signal.pidfd_send_signal(handle, number)
                waiting = select.poll()
                waiting.register(handle, select.POLLIN)
                if waiting.poll(_STOP_SECONDS * 1000):
                    return
            raise ServerFailed(f"dnsmasq, process {pid}, does not end")
        except ProcessLookupError:
            return
        finally:
            os.close(handle)

    def _signal(self, pid: int | None, number: signal.Signals) -> None:
        if pid is None:
            return
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            if self._is_ours(pid):
                signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            log.debug("dnsmasq, process %d, ended meanwhile", pid)
        finally:
            os.close(handle)

    def _prepare(self) -> None:
        parts = (self.directory / part for part in (dnsmasq.DHCP_HOSTS, dnsmasq.NAMES))
        for path in (self.directory.parent, self.directory, *parts):
            if not path.is_dir():
                path.mkdir(parents=True, exist_ok=True)
                path.chmod(0o755)

    def _user(self) -> str:
        """It reads its files again when it is root no longer, so it must be let through to them."""
        if all(path.stat().st_mode & 0o001 for path in (self.directory, *self.directory.parents)):
            for name in USERS:
                try:
                    return pwd.getpwnam(name).pw_name
                except KeyError:
                    continue
        log.warning("dnsmasq stays root: no other user is let through to %s", self.directory)
        return "root"
