"""Servers of block storage for tests, in the network of a demo's front machine: iSCSI (tgtd) and NBD (qemu-nbd), in
user space; and loop devices.  Knows no pools."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clusterhost.demo import processes
from clusterhost.demo.layout import FRONT_ADDRESS as ADDRESS
from clusterhost.demo.layout import Layout
from tests.support.stock import eventually

ISCSI_PORT, NBD_PORT = 3260, 10809
TARGET = "iqn.2026-11.test:disks"
INITIATOR = "iqn.2026-11.test:nodes"
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_BACKENDS = Path("/usr/lib/x86_64-linux-gnu")


def lacking(*commands: str, backend: str = "", driver: str = "") -> str:
    """What is not installed: commands, a storage backend of libvirt, a block driver of QEMU."""
    missing = [name for name in commands if not shutil.which(name, path=_PATH)]
    if backend and not list(_BACKENDS.glob(f"libvirt/storage-backend/*_{backend}.so")):
        missing.append(f"libvirt's storage backend {backend}")
    if driver and not list(_BACKENDS.glob(f"qemu/block-{driver}.so")):
        missing.append(f"QEMU's block driver {driver}")
    return f"not installed: {', '.join(missing)}" if missing else ""


def run(*words: str) -> str:
    """Run a command that has to succeed."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr or done.stdout}"
    return done.stdout.strip()


def entered(state: Path) -> list[str]:
    """Words before a command that is to be in the front machine's network."""
    layout = Layout(state)
    init = processes.machine_init(state, layout.front)
    assert init is not None, "the front machine is off"
    return ["nsenter", "-t", str(init), "-n"]


@contextlib.contextmanager
def program(words: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """It runs until the block's end."""
    with log.open("ab") as output:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


@dataclass
class Iscsi:
    """A target with a unit for each image, from 1 on."""

    images: list[Path]
    directory: Path
    inside: list[str]
    _running: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _pid: int = 0

    def start(self) -> None:
        """Serve."""
        # Its control socket has a fixed place.
        script = f"mount -t tmpfs run /run && exec tgtd -f -C 7 --iscsi portal={ADDRESS}:{ISCSI_PORT}"
        words = [*self.inside, "unshare", "--mount", "sh", "-c", script]
        log = self.directory / "tgtd.log"
        self._pid = self._running.enter_context(program(words, log)).pid
        eventually(lambda: self._tell("sys", "show", check=False), 20, f"tgtd: {log.read_text()}")
        self._tell("target", "new", "--tid", "1", "-T", TARGET)
        for number in range(1, len(self.images) + 1):
            self._unit(number)
        self._tell("target", "bind", "--tid", "1", "-I", "ALL")

    def add(self, image: Path) -> None:
        """One unit more."""
        self.images.append(image)
        self._unit(len(self.images))

    def stop(self) -> None:
        """The server is gone."""
        self._running.close()

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """Nobody gets an answer, not even that there is nobody."""
        table = "inet silent"
        rules = f"table {table} {{ chain c {{ type filter hook input priority 0; tcp dport {ISCSI_PORT} drop; }}; }}"
        run(*self.inside, "nft", rules)
        try:
            yield
        finally:
            run(*self.inside, "nft", f"delete table {table}")

    def _unit(self, number: int) -> None:
        image = str(self.images[number - 1])
        self._tell("logicalunit", "new", "--tid", "1", "--lun", str(number), "-b", image)

    def _tell(self, mode: str, op: str, *more: str, check: bool = True) -> bool:
        words = ["nsenter", "-t", str(self._pid), "-m", "tgtadm", "-C", "7", "--lld", "iscsi"]
        done = subprocess.run(
            [*words, "--mode", mode, "--op", op, *more], capture_output=True, text=True, timeout=30
        )
        assert not check or done.returncode == 0, f"tgtadm {mode} {op}: {done.stderr}"
        return done.returncode == 0


@contextlib.contextmanager
def iscsi(state: Path, directory: Path, *images: Path) -> Iterator[Iscsi]:
    """A target that serves these images to all nodes of the demo."""
    server = Iscsi(list(images), directory, entered(state))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def nbd(state: Path, directory: Path, image: Path) -> Iterator[None]:
    """A raw image, served to all nodes of the demo; two may have it while a domain moves."""
    words = ["qemu-nbd", "--format=raw", f"--bind={ADDRESS}", f"--port={NBD_PORT}", "--persistent"]
    log = directory / "nbd.log"
    with program([*entered(state), *words, "--shared=4", "--export-name=disk", str(image)], log):
        probe = ["qemu-img", "info", f"nbd://{ADDRESS}:{NBD_PORT}/disk"]

        def answers() -> bool:
            return subprocess.run([*entered(state), *probe], capture_output=True).returncode == 0

        eventually(answers, 20, f"qemu-nbd: {log.read_text()}")
        yield


@contextlib.contextmanager
def hidden(state: Path, node: str, device: Path) -> Iterator[None]:
    """The node does not see it: machines of a demo have one /dev."""
    init = processes.machine_init(state, Layout(state).machine(node))
    run("nsenter", "-t", str(init), "-m", "mount", "--bind", "/dev/null", str(device))
    try:
        yield
    finally:
        # Another umount would look for where the loop device itself is mounted.
        run("nsenter", "-t", str(init), "-m", "busybox", "umount", str(device))


@contextlib.contextmanager
def loop(image: Path, size: int) -> Iterator[Path]:
    """A loop device with an empty image of so many bytes."""
    with image.open("wb") as file:
        file.truncate(size)
    device = Path(run("losetup", "--partscan", "--find", "--show", str(image)))
    try:
        yield device
    finally:
        run("losetup", "--detach", str(device))
        image.unlink()
