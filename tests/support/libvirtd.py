"""A real libvirtd with the QEMU driver in namespaces of its own.  Knows nothing of clusterhost."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

DOMAIN = (
    "<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>"
    "<os><type arch='x86_64' machine='pc'>hvm</type></os>"
    "<devices><serial type='pty'/><console type='pty'/>{devices}</devices></domain>"
)


def domain_xml(name: str, devices: str = "") -> str:
    """A domain that only runs its firmware."""
    return DOMAIN.format(name=name, devices=devices)


class PrivateLibvirtd:
    """libvirtd and its guests in a pid and a mount namespace; everything of it is below `directory`."""

    SHADOWED = ("/etc/libvirt", "/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt", "/run/libvirt")

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "sock" / "libvirt-sock"
        self.socket_ro = directory / "sock" / "libvirt-sock-ro"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until it listens."""
        self._write_files()
        script = "\n".join(
            [
                "set -e",
                # Here /dev/kvm can be opened but runs nothing: libvirtd would wait for its probe for ever.
                f"touch {self.directory}/nothing",
                f"mount --bind {self.directory}/nothing /dev/kvm",
                f"mount -o remount,ro,bind {self.directory}/nothing /dev/kvm",
                *(
                    f"mkdir -p {path}; mount --bind {self.directory}/{index} {path}"
                    for index, path in enumerate(self.SHADOWED)
                ),
                # The shell stays as process 1: guests become its children when libvirtd lets go of them, and
                # one that nobody reaps looks alive to libvirtd for ever.
                f"libvirtd -f {self.directory}/libvirtd.conf -p {self.directory}/pid & wait $!",
            ]
        )
        log = (self.directory / "out").open("wb")
        command = ["unshare", "-m", "-p", "-n", "-f", "--kill-child", "--mount-proc", "sh", "-c", script]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        end = time.monotonic() + 20
        while not self.socket.exists():
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"libvirtd did not start: {(self.directory / 'out').read_text()}")
            time.sleep(0.05)

    def _write_files(self) -> None:
        for index in range(len(self.SHADOWED)):
            (self.directory / str(index)).mkdir(parents=True, exist_ok=True)
        (self.directory / "sock").mkdir(exist_ok=True)
        (self.directory / "libvirtd.conf").write_text(
            f'unix_sock_dir = "{self.directory}/sock"\nauth_unix_ro = "none"\nauth_unix_rw = "none"\n'
            'unix_sock_rw_perms = "0700"\nlog_outputs = "3:stderr"\n'
        )
        (self.directory / "0" / "qemu.conf").write_text(
            'user = "root"\ngroup = "root"\nsecurity_driver = "none"\ncgroup_controllers = []\n'
            'namespaces = []\nstdio_handler = "file"\nremember_owner = 0\nvnc_listen = "127.0.0.1"\n'
        )

    def freeze(self) -> None:
        """Stop the daemon as a hang would."""
        os.kill(self._daemon(), signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self._daemon(), signal.SIGCONT)

    def _daemon(self) -> int:
        assert self.process is not None
        shell = child_of(self.process.pid)
        return child_of(shell)

    def stop(self) -> None:
        """End it with all its guests."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(20)
        shutil.rmtree(self.directory, ignore_errors=True)


def child_of(pid: int) -> int:
    """The first child of a process."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


@contextlib.contextmanager
def nodes(directory: Path, *names: str) -> Iterator[dict[str, PrivateLibvirtd]]:
    """Private libvirtds of these names."""
    with contextlib.ExitStack() as undo:
        started = {}
        for name in names:
            (directory / name).mkdir()
            started[name] = PrivateLibvirtd(directory / name)
            undo.callback(started[name].stop)
            started[name].start()
        yield started
