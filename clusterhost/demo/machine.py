"""The first process of a demo machine: mounts, network, services it keeps running.  Standard library only.

Runs as process 1 of the machine's namespaces: `python -m clusterhost.demo.machine DIRECTORY`.  There
machine.json says what the machine is, services.json what it runs; SIGHUP reads the latter again.  When this
process is killed the kernel kills all others of the machine at once, as a power cut does.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RESTART_SECONDS = 1.0
_POLL_SECONDS = 0.5
_WATCHED = {signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM}


@dataclass
class Supervisor:
    """Keeps the services of services.json running; a service that ended is started again after a second."""

    directory: Path
    wanted: dict[str, dict[str, Any]] = field(default_factory=dict)
    pids: dict[str, int] = field(default_factory=dict)
    not_before: dict[str, float] = field(default_factory=dict)

    def read(self) -> None:
        """Take services.json as it is now; stop what is no longer wanted there."""
        before, self.wanted = self.wanted, json.loads((self.directory / "services.json").read_text())
        for name, pid in self.pids.items():
            if not self.wanted.get(name, {}).get("enabled", False):
                os.kill(pid, signal.SIGTERM)
        for name in [name for name in self.not_before if self.wanted.get(name) != before.get(name)]:
            del self.not_before[name]

    def start_missing(self, now: float) -> None:
        """Start what is enabled, does not run, and is not waiting for its second to pass."""
        for name, service in self.wanted.items():
            due = self.not_before.get(name, 0.0) <= now
            if service["enabled"] and name not in self.pids and due:
                self.pids[name] = self._spawn(name, service)
                self._tell()

    def reap(self, now: float) -> None:
        """Collect ended processes, services or orphans."""
        while (pid := _ended_child()) is not None:
            for name in [name for name, running in self.pids.items() if running == pid]:
                del self.pids[name]
                restart = self.wanted.get(name, {}).get("restart", True)
                self.not_before[name] = now + RESTART_SECONDS if restart else float("inf")
                self._tell()

    def _spawn(self, name: str, service: dict[str, Any]) -> int:
        log = str(self.directory / "log" / f"{name}.log")
        files = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        argv = service["argv"]
        environment = {**os.environ, **service.get("env", {})}
        return os.posix_spawnp(argv[0], argv, environment, file_actions=files, setsid=True, setsigmask=())

    def _tell(self) -> None:
        _write(self.directory / "status.json", json.dumps(self.pids))


def main(directory: Path) -> None:
    """Become the machine and run its services until SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    _become(json.loads((directory / "machine.json").read_text()))
    supervisor = Supervisor(directory)
    supervisor.read()
    while True:
        supervisor.start_missing(time.monotonic())
        received = signal.sigtimedwait(_WATCHED, _POLL_SECONDS)
        number = received.si_signo if received else None
        if number == signal.SIGTERM:
            return
        if number == signal.SIGHUP:
            supervisor.read()
        supervisor.reap(time.monotonic())


def _become(spec: dict[str, Any]) -> None:
    socket.sethostname(spec["hostname"])
    for directory in spec["emptied"]:
        _empty(Path(directory))
    for directory in spec["made"]:
        Path(directory).mkdir(parents=True, exist_ok=True)
    # A new sysfs shows this machine's network interfaces, not the host's; below the old one are the host's groups.
    if os.path.ismount("/sys"):
        _run("umount", "--lazy", "/sys")
    _run("mount", "-t", "sysfs", "sysfs", "/sys")
    _mount_groups(spec["cgroups"])
    for source, target in spec["binds"]:
        if Path(target).exists():
            _run("mount", "--bind", source, target)
    for target in spec["hidden"]:
        _hide(Path(target), spec["nothing"])
    _run("ip", "link", "set", "lo", "up")
    while not set(spec["interfaces"]) <= {name for _, name in socket.if_nameindex()}:
        time.sleep(0.01)
    for command in spec["commands"]:
        _run(*command)


def _mount_groups(hierarchies: list[str]) -> None:
    """Mount what shows this machine's control groups alone, for it has a namespace of them."""
    top = Path("/sys/fs/cgroup")
    if hierarchies:
        _run("mount", "-t", "tmpfs", "-o", "mode=755", "cgroups", str(top))
    for options in hierarchies:
        (top / options).mkdir()
        _run("mount", "-t", "cgroup", "-o", options, "cgroup", str(top / options))


def _hide(target: Path, nothing: str) -> None:
    """Make a device unusable: only a file on a read-only mount answers no to access(2) from root."""
    if target.exists():
        _run("mount", "--bind", nothing, str(target))
        _run("mount", "-o", "remount,ro,bind", str(target))


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True)


def _ended_child() -> int | None:
    try:
        pid, _ = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return pid or None


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text)
    temporary.replace(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
