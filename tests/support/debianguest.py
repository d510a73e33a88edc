"""Machines with Debian's kernel, for what this one's kernel lacks (VLAN filtering, queues): QEMU guests that see this
machine's files, read only below a layer of their own memory, and run commands.  Knows nothing of clusterhost's work.

`with guests(2) as (one, two): one.check("ip link")`.  Each guest has a link to each other guest, eth0, eth1 ... in the
order of the others.  Nothing of this machine's network is used but the port that a `Forward` names.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from clusterhost.demo import initrd

TREE = Path(__file__).resolve().parents[2]
"""The project's root: a command's working directory."""
BOOT_SECONDS = 120.0
_DRIVERS = ("virtio_pci", "virtio_console", "virtio_net", "virtio_rng", "virtiofs", "overlay")
_DAEMONS = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")
_TAG = "machine"

_INIT = rb"""#!/bin/busybox sh
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /below /above /new
mount -t devtmpfs devtmpfs /dev
exec > /dev/console 2>&1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
read -r modules < /modules.list
for module in $modules; do insmod "/modules/$module"; done
mount -t virtiofs -o ro machine /below
mount -t tmpfs above /above
mkdir /above/data /above/work
mount -t overlay -o lowerdir=/below,upperdir=/above/data,workdir=/above/work root /new
mount --move /dev /new/dev
mount --move /proc /new/proc
mount --move /sys /new/sys
mount -t tmpfs run /new/run
cp /commands /new/run/commands
# Not just chroot: the kernel, too, looks for modprobe from here.
exec switch_root /new /bin/sh /run/commands < /new/dev/console > /new/dev/console 2>&1
"""

_COMMANDS = rb"""mkdir -p /dev/pts /dev/shm
export HOME=/root LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
ip link set lo up
# A command is a line; the answer a line "EXIT-CODE BYTES" and what it said.
until port=$(ls /dev/vport*p1 2> /dev/null); do sleep 0.1; done
exec 3<> "$port"
echo "ready 0" >&3
while read -r line <&3; do
    /bin/sh -c "$line" < /dev/null > /run/said 2>&1 3>&-
    code=$?
    echo "$code $(stat -c %s /run/said)" >&3
    cat /run/said >&3
done
"""


@dataclass(frozen=True)
class Forward:
    """A port at the host that leads to one of the guest, whose last link has INSIDE then.  words: before the command of
    its QEMU, to be in another network."""

    address: str
    port: int
    to: int
    words: Sequence[str] = ()


INSIDE, GATEWAY = "10.0.2.15/24", "10.0.2.2"


class GuestFailed(AssertionError):
    """A guest did not boot, did not answer in time, or a command failed in it."""


@dataclass(frozen=True)
class Ran:
    """What came of a command: exit code, standard output and error as they came."""

    code: int
    output: str


class DebianGuest:
    """A running guest."""

    def __init__(self, name: str, port: socket.socket, serial: Path, boot_seconds: float) -> None:
        self.name = name
        self.boot_seconds = boot_seconds
        self._port = port
        self._serial = serial

    def run(self, command: str | Sequence[str], seconds: float = 60.0) -> Ran:
        """Run a command (a line of shell, or words) as root in the project's root."""
        line = command if isinstance(command, str) else shlex.join(command)
        assert "\n" not in line, line
        self._port.sendall(f"cd {shlex.quote(str(TREE))} && {line}\n".encode())
        answer = _Answer(self._port, time.monotonic() + seconds)
        try:
            code, size = answer.line().split()
            return Ran(int(code), answer.bytes(int(size)).decode(errors="replace"))
        except (OSError, EOFError) as error:
            said = _tail(self._serial)
            message = f"{self.name}: no answer to {line!r} in {seconds} s ({error}); console: {said}"
            raise GuestFailed(message) from None

    def check(self, command: str | Sequence[str], seconds: float = 60.0) -> str:
        """Its output; GuestFailed with it when the exit code is not 0."""
        ran = self.run(command, seconds)
        if ran.code:
            raise GuestFailed(f"{self.name}: {command} ended with {ran.code}: {ran.output}")
        return ran.output


def why_not() -> str:
    """What this machine lacks for such guests, "" when all is there: the reason of a skip."""
    if not _daemon():
        return "virtiofsd is not installed (Debian 12: qemu-system-common, later: virtiofsd)"
    for program in ("qemu-system-x86_64", "busybox"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    try:
        initrd.newest_kernel()
    except initrd.GuestPartsMissing as error:
        return str(error)
    return ""


@contextlib.contextmanager
def guests(
    count: int, memory_mib: int = 320, forward: Forward | None = None
) -> Iterator[tuple[DebianGuest, ...]]:
    """Booted guests g1, g2 ...; all of it ends with the block.  forward: of the only one.  GuestFailed."""
    with contextlib.ExitStack() as undo:
        directory = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="dg-")))
        (directory / "vmlinuz").symlink_to(initrd.newest_kernel().image)
        (directory / "initrd").write_bytes(_initrd())
        names = [f"g{number}" for number in range(1, count + 1)]
        start = time.monotonic()
        for name in names:
            _start(undo, directory, name, names, memory_mib, forward)
        yield tuple(_meet(undo, directory, name, start) for name in names)


def _initrd() -> bytes:
    kernel = initrd.newest_kernel()
    order = initrd.load_order(kernel.modules, _DRIVERS)
    directory, file, link = 0o040755, 0o100755, 0o120777
    busybox = shutil.which("busybox")
    assert busybox is not None
    return initrd.archive(
        [
            initrd.Entry("bin", directory),
            initrd.Entry("bin/busybox", file, Path(busybox).read_bytes()),
            initrd.Entry("bin/sh", link, b"busybox"),
            initrd.Entry("init", file, _INIT),
            initrd.Entry("commands", file, _COMMANDS),
            initrd.Entry("modules", directory),
            initrd.Entry("modules.list", file, " ".join(Path(path).name for path in order).encode() + b"\n"),
            *(initrd.Entry(f"modules/{Path(path).name}", file, (kernel.modules / path).read_bytes()) for path in order),
        ]
    )  # fmt: skip


def _start(
    undo: contextlib.ExitStack,
    directory: Path,
    name: str,
    names: Sequence[str],
    memory_mib: int,
    forward: Forward | None,
) -> None:
    files = directory / f"{name}.fs"
    daemon = [
        _daemon(),
        f"--socket-path={files}",
        "-o",
        "source=/,cache=always,log_level=err,sandbox=chroot",
    ]
    with (directory / f"{name}.log").open("wb") as log:
        # Undone in reverse: QEMU ends first, and the daemon with its connection.
        _begin(undo, daemon, log.fileno())
        _until(files.exists, f"{daemon[0]} of {name}")
        command = _qemu(directory, name, names, memory_mib)
        if forward is not None:
            way = f"hostfwd=tcp:{forward.address}:{forward.port}-:{forward.to}"
            command = [*forward.words, *command, "-netdev", f"user,id=out,restrict=on,{way}"]
            command += ["-device", "virtio-net-pci,netdev=out"]
        _begin(undo, command, log.fileno())


def _qemu(directory: Path, name: str, names: Sequence[str], memory_mib: int) -> list[str]:
    command = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-no-reboot", "-m", f"{memory_mib}"]
    command += ["-machine", "pc,accel=tcg,memory-backend=mem"]
    # The daemon of the files reads and writes the guest's memory.
    command += ["-object", f"memory-backend-memfd,id=mem,size={memory_mib}M,share=on"]
    command += ["-kernel", str(directory / "vmlinuz"), "-initrd", str(directory / "initrd")]
    settings = f"console=ttyS0 quiet panic=1 net.ifnames=0 mitigations=off hostname={name}"
    command += ["-append", settings]
    command += ["-serial", f"file:{directory / name}.serial", "-device", "virtio-rng-pci"]
    command += ["-chardev", f"socket,id=files,path={directory / name}.fs"]
    command += ["-device", f"vhost-user-fs-pci,chardev=files,tag={_TAG}"]
    command += ["-chardev", f"socket,id=port,path={directory / name}.port,server=on,wait=off"]
    command += ["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=port,name=commands"]
    number = names.index(name) + 1
    for one, other in combinations(names, 2):
        if name in (one, other):
            peer = other if name == one else one
            command += _nic(directory, name, peer, f"52:54:00:dd:{number:02x}:{names.index(peer) + 1:02x}")
    return command


def _nic(directory: Path, name: str, peer: str, mac: str) -> list[str]:
    here, there = (directory / f"{one}-{other}.wire" for one, other in ((name, peer), (peer, name)))
    netdev = f"dgram,id=to-{peer},local.type=unix,local.path={here},remote.type=unix,remote.path={there}"
    return ["-netdev", netdev, "-device", f"virtio-net-pci,netdev=to-{peer},mac={mac}"]


def _begin(undo: contextlib.ExitStack, command: Sequence[str], log: int) -> None:
    process = undo.enter_context(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
    undo.callback(process.kill)


def _meet(undo: contextlib.ExitStack, directory: Path, name: str, start: float) -> DebianGuest:
    port = undo.enter_context(socket.socket(socket.AF_UNIX))
    path, serial = directory / f"{name}.port", directory / f"{name}.serial"
    _until(path.exists, f"QEMU of {name}: {_tail(directory / f'{name}.log')}")
    port.connect(str(path))
    answer = _Answer(port, start + BOOT_SECONDS)
    try:
        assert answer.line() == "ready 0"
    except (OSError, EOFError) as error:
        raise GuestFailed(
            f"{name} did not boot ({error}); console: {_tail(serial)}; QEMU: {_tail(directory / f'{name}.log')}"
        ) from None
    return DebianGuest(name, port, serial, time.monotonic() - start)


class _Answer:
    """Reads one answer.  OSError when time is up, EOFError when the guest is gone."""

    def __init__(self, port: socket.socket, deadline: float) -> None:
        self._port = port
        self._deadline = deadline

    def line(self) -> str:
        found = b""
        while not found.endswith(b"\n"):
            found += self.bytes(1)
        return found.decode().strip()

    def bytes(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            self._port.settimeout(max(self._deadline - time.monotonic(), 0.001))
            part = self._port.recv(size - len(found))
            if not part:
                raise EOFError("the guest ended")
            found += part
        return found


def _until(holds: object, what: str, seconds: float = 10.0) -> None:
    assert callable(holds)
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise GuestFailed(f"{what} did not start")
        time.sleep(0.02)


def _daemon() -> str:
    return next((path for path in _DAEMONS if Path(path).exists()), "")


def _tail(path: Path) -> str:
    return path.read_text(errors="replace")[-2000:] if path.exists() else ""
