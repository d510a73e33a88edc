"""Boot and plumb the demo's machines: the one with the bridge, and the nodes.  Starts no front end."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from clusterhost.demo import cgroups, processes
from clusterhost.demo import layout as names
from clusterhost.demo.layout import BRIDGE, FRONT, FRONT_ADDRESS, NIC, DemoError, Layout

BOOT_SECONDS = 15.0
_PARTITION_TABLE = "clusterhost_partition"
_NODE_DIRECTORIES = (
    *names.NODE_DIRECTORIES,
    "run/lock",
    "log/libvirt/qemu",
    "cache/libvirt/qemu",
    "lib/qemu",
    "lib/images",
    "lib/boot",
)

_IDENTITY = ("hosts", "hostname", "machine-id", "passwd")

_LIBVIRTD_CONF = """host_uuid = "{uuid}"
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_ro_perms = "0777"
unix_sock_rw_perms = "0700"
"""

# A node's own namespaces are all that it needs.
_QEMU_CONF = """user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
stdio_handler = "file"
"""
# Where a node cannot have groups of its own, libvirtd would make some in the host's.
_NO_CGROUPS = "cgroup_controllers = []\n"


@dataclass(frozen=True)
class Service:
    """A program that a machine keeps running; `restart` false leaves it ended until `run` is raised."""

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    enabled: bool = True
    restart: bool = True
    run: int = 0


def create_front(layout: Layout, nodes: Sequence[str], binds: Sequence[tuple[str, str]] = ()) -> None:
    """Write the machine that holds the bridge and, later, the front end; binds: file -> path seen there."""
    directory = layout.front
    (directory / "log").mkdir(parents=True, exist_ok=True)
    _write_identity(layout, FRONT, nodes)
    commands = [
        f"ip link add {BRIDGE} address {names.mac_of(FRONT_ADDRESS)} type bridge stp_state 0 forward_delay 0",
        f"ip address add {FRONT_ADDRESS}/{names.PREFIX_LENGTH} dev {BRIDGE}",
        f"ip link set {BRIDGE} up",
    ]
    _write_machine(
        layout,
        FRONT,
        binds=[*binds],
        commands=commands,
        hidden=[],
        interfaces=[],
        emptied=[],
        made=[],
        groups=[],
    )
    _write_services(directory, {})


def create_node(layout: Layout, name: str, nodes: Sequence[str], *, kvm: bool) -> None:
    """Write a node's directories and configuration; what libvirt keeps there is left as it is."""
    directory = layout.nodes / name
    for part in _NODE_DIRECTORIES:
        (directory / part).mkdir(parents=True, exist_ok=True)
    _write_identity(layout, name, nodes)
    conf = directory / "etc" / "libvirtd.conf"
    if not conf.exists():
        conf.write_text(_LIBVIRTD_CONF.format(uuid=uuid.uuid4()))
        (directory / "etc" / "qemu.conf").write_text(_QEMU_CONF + ("" if cgroups.usable() else _NO_CGROUPS))
    commands = [
        f"ip address add {names.node_address(name)}/{names.PREFIX_LENGTH} dev {NIC}",
        f"ip link set {NIC} up",
        f"ip route add default via {FRONT_ADDRESS}",
    ]
    _write_machine(
        layout,
        name,
        binds=[(str(directory / part), path) for part, path in names.NODE_DIRECTORIES.items()],
        commands=commands,
        # libvirt would offer KVM to clients wherever /dev/kvm opens, though no guest runs under it.
        hidden=[] if kvm else ["/dev/kvm"],
        interfaces=[NIC],
        # /run is memory on a real machine: it is empty after a power cut.
        emptied=[str(directory / "run")],
        made=[str(directory / "run" / "lock")],
        groups=[tree.options for tree in cgroups.usable()],
    )
    if not (directory / "services.json").exists():
        _write_services(directory, {"libvirtd": Service(["libvirtd"])})


def boot(layout: Layout, name: str) -> int:
    """Start a machine unless it runs, plug a node into the bridge; return its first process's host pid."""
    directory = layout.machine(name)
    if (running := processes.machine_init(layout.state, directory)) is not None:
        return running
    groups = [] if name == FRONT else cgroups.make(layout.state, name)
    namespaces = ["--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]
    namespaces += ["--cgroup"] if groups else []
    python = [sys.executable, "-m", "clusterhost.demo.machine", str(directory)]
    log = directory / "log" / "machine.log"
    with log.open("ab") as output:
        # setsid --fork leaves the machine without a parent here, so that it outlives `demo up`.
        subprocess.run(
            ["setsid", "--fork", *_entered(groups), "unshare", *namespaces, *python],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment(layout),
            cwd="/",
        )
    init = _wait_for_init(layout, directory)
    if name == FRONT:
        _wait_for_bridge(layout, init)
    else:
        _plug(layout, name, init)
    return init


def _entered(groups: Sequence[Path]) -> list[str]:
    """Return the words before a command that is to run in these groups."""
    lines = [f"echo $$ >{shlex.quote(str(file))}; " for file in groups]
    return ["sh", "-ec", "".join(lines) + 'exec "$@"', "sh"] if groups else []


def wait_for_socket(layout: Layout, name: str, seconds: float = BOOT_SECONDS) -> None:
    """Wait until the node's libvirtd answers; raises DemoError with the end of its logs."""
    deadline = time.monotonic() + seconds
    uri = f"qemu+unix:///system?socket={layout.node_socket(name)}"
    while time.monotonic() < deadline:
        if layout.node_socket(name).exists():
            answer = subprocess.run(
                ["virsh", "-c", uri, "version", "--daemon"], capture_output=True, check=False
            )
            if answer.returncode == 0:
                return
        time.sleep(0.05)
    raise DemoError(f"libvirtd of node {name} did not answer within {seconds:g} s: {log_tail(layout, name)}")


def services(layout: Layout, name: str) -> dict[str, Service]:
    """Return what the machine is told to run."""
    rows = json.loads((layout.machine(name) / "services.json").read_text())
    return {service: Service(**row) for service, row in rows.items()}


def set_services(layout: Layout, name: str, wanted: Mapping[str, Service]) -> None:
    """Tell the machine what to run; takes effect at once when it is on, else when it is booted."""
    _write_services(layout.machine(name), wanted)
    init = processes.machine_init(layout.state, layout.machine(name))
    if init is not None:
        os.kill(init, signal.SIGHUP)


def change_service(layout: Layout, name: str, service: str, **changes: Any) -> None:
    """Change fields of one Service and tell the machine; a service that had ended is started when enabled."""
    rows = services(layout, name)
    if service not in rows:
        raise DemoError(f"machine {name} has no service {service}, it has {', '.join(rows)}")
    changed = replace(rows[service], run=rows[service].run + 1, **changes)
    set_services(layout, name, {**rows, service: changed})


def service_pid(layout: Layout, name: str, service: str) -> int | None:
    """Return the host's pid of a running service, None when it does not run."""
    init = processes.machine_init(layout.state, layout.machine(name))
    status = layout.machine(name) / "status.json"
    if init is None or not status.exists():
        return None
    inner = json.loads(status.read_text()).get(service)
    return None if inner is None else processes.host_pid(init, inner)


def kill_service(layout: Layout, name: str, service: str) -> None:
    """Kill a service with SIGKILL; returns when its machine knows that it ended (and may start it again)."""
    status = layout.machine(name) / "status.json"
    init = processes.machine_init(layout.state, layout.machine(name))
    if init is None or (inner := json.loads(status.read_text()).get(service)) is None:
        return
    if (pid := processes.host_pid(init, inner)) is not None:
        processes.kill(pid)
    deadline = time.monotonic() + BOOT_SECONDS
    while json.loads(status.read_text()).get(service) == inner:
        if time.monotonic() > deadline:
            raise DemoError(f"machine {name} has not noticed the end of {service}: {log_tail(layout, name)}")
        time.sleep(0.01)


def cut(layout: Layout, name: str) -> None:
    """Take a machine's power: nothing of it runs when this returns."""
    init = processes.machine_init(layout.state, layout.machine(name))
    if init is not None:
        processes.kill(init)


def partition(init: int) -> None:
    """Drop everything between a node and the bridge, both ways, so that its connections hang."""
    chains = "".join(
        f"chain {hook} {{ type filter hook {hook} priority -300; {direction} {NIC} drop; }}\n"
        for hook, direction in (("input", "iifname"), ("output", "oifname"), ("forward", "iifname"))
    )
    _nft(init, f"add table inet {_PARTITION_TABLE}\ndelete table inet {_PARTITION_TABLE}\n")
    _nft(init, f"table inet {_PARTITION_TABLE} {{\n{chains}}}\n")


def heal(init: int) -> None:
    """Undo `partition`."""
    _nft(init, f"add table inet {_PARTITION_TABLE}\ndelete table inet {_PARTITION_TABLE}\n")


def _nft(init: int, rules: str) -> None:
    _inside(init, ["nft", "-f", "-"], rules)


def _plug(layout: Layout, name: str, init: int) -> None:
    front = processes.machine_init(layout.state, layout.front)
    if front is None:
        raise DemoError(f"node {name} cannot be joined to the bridge: the front machine is off")
    deadline = time.monotonic() + BOOT_SECONDS
    # The old end of a node that lost power goes away a little after its namespace.
    while name in _links(front):
        if time.monotonic() > deadline:
            raise DemoError(f"the link of node {name} is still on the bridge after {BOOT_SECONDS:g} s")
        subprocess.run(
            ["nsenter", "-t", str(front), "-n", "ip", "link", "delete", name],
            check=False,
            capture_output=True,
        )
        time.sleep(0.02)
    peer = f"peer name {NIC} address {names.node_mac(name)} netns {init}"
    _inside(
        front,
        ["ip", "-batch", "-"],
        f"link add {name} type veth {peer}\nlink set {name} master {BRIDGE} up\n",
    )


def _wait_for_bridge(layout: Layout, init: int) -> None:
    deadline = time.monotonic() + BOOT_SECONDS
    while BRIDGE not in _links(init):
        if time.monotonic() > deadline:
            raise DemoError(f"the bridge was not made within {BOOT_SECONDS:g} s: {log_tail(layout, FRONT)}")
        time.sleep(0.01)


def _links(init: int) -> set[str]:
    rows = json.loads(_inside(init, ["ip", "-json", "link", "show"]))
    return {row["ifname"] for row in rows}


def _inside(init: int, argv: Sequence[str], text: str = "") -> str:
    command = ["nsenter", "-t", str(init), "-n", *argv]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DemoError(f"{' '.join(argv)} failed inside the demo: {done.stderr.strip()}")
    return done.stdout


def _wait_for_init(layout: Layout, directory: Path) -> int:
    deadline = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < deadline:
        if (init := processes.machine_init(layout.state, directory)) is not None:
            return init
        time.sleep(0.01)
    raise DemoError(f"machine {directory.name} did not start: {log_tail(layout, directory.name)}")


def log_tail(layout: Layout, name: str) -> str:
    """Return the last lines of each log of a machine, as one line."""
    logs = sorted((layout.machine(name) / "log").glob("*.log"))
    return " ".join(line for path in logs for line in path.read_text(errors="replace").splitlines()[-3:])


def environment(layout: Layout) -> dict[str, str]:
    """Return the environment of every process of the demo, with its marker; CLUSTERHOST_* is passed on."""
    package_root = str(Path(__file__).resolve().parents[2])
    kept = {
        key: value
        for key, value in os.environ.items()
        if key in ("PATH", "LANG", "TZ") or key.startswith("CLUSTERHOST_")
    }
    return {**kept, "HOME": "/root", "PYTHONPATH": package_root, names.MARKER: str(layout.state)}


def write_hosts(layout: Layout, nodes: Sequence[str]) -> None:
    """Tell every machine, also those that run, the names of all nodes."""
    for name in (FRONT, *nodes):
        # Written in place: what running machines have mounted is this very file.
        (layout.machine(name) / "hosts").write_text(names.hosts_file(tuple(nodes)))


def _write_identity(layout: Layout, name: str, nodes: Sequence[str]) -> None:
    directory = layout.machine(name)
    (directory / "hosts").write_text(names.hosts_file(tuple(nodes)))
    (directory / "hostname").write_text(name + "\n")
    if not (directory / "machine-id").exists():
        (directory / "machine-id").write_text(uuid.uuid4().hex + "\n")
    # A login there reads nothing of this machine's root: no ~/.bashrc, no ~/.ssh/config.
    home = directory / "home"
    home.mkdir(mode=0o700, exist_ok=True)
    accounts = Path("/etc/passwd").read_text().splitlines()
    others = [line for line in accounts if not line.startswith("root:")]
    (directory / "passwd").write_text("\n".join((f"root:x:0:0:root:{home}:/bin/sh", *others)) + "\n")


def _write_machine(
    layout: Layout,
    name: str,
    *,
    binds: list[tuple[str, str]],
    commands: list[str],
    hidden: list[str],
    interfaces: list[str],
    emptied: list[str],
    made: list[str],
    groups: list[str],
) -> None:
    directory = layout.machine(name)
    nothing = directory / "nothing"
    nothing.touch()
    identity = [(str(directory / part), f"/etc/{part}") for part in _IDENTITY]
    spec = {
        "hostname": name,
        "emptied": emptied,
        "made": made,
        "cgroups": groups,
        "binds": [*identity, *binds],
        "hidden": hidden,
        "nothing": str(nothing),
        "interfaces": interfaces,
        "commands": [command.split() for command in commands],
    }
    (directory / "machine.json").write_text(json.dumps(spec, indent=1))


def _write_services(directory: Path, wanted: Mapping[str, Service]) -> None:
    rows = {name: asdict(service) for name, service in wanted.items()}
    temporary = directory / "services.json.new"
    temporary.write_text(json.dumps(rows, indent=1))
    temporary.replace(directory / "services.json")
