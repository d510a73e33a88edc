"""Machines of the demo that have only sshd and libvirtd: what a cluster finds before anything is installed."""

import subprocess
from pathlib import Path

from clusterhost.demo import machines, processes
from clusterhost.demo.layout import FRONT, MARKER, DemoError, Layout, node_address
from clusterhost.demo.machines import Service

SSHD = "/usr/sbin/sshd"
CLIENT_CONFIG = Path("/etc/ssh/ssh_config")
_SECONDS = 15.0

# The front machine sees this in place of the host's ssh_config, so that plain `ssh root@n4` works there.
_CLIENT = """Host *
    IdentityFile {ssh}/id
    IdentitiesOnly yes
    UserKnownHostsFile {ssh}/known_hosts
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
"""

# No PAM: nothing of the host's accounts is asked or written.
_SERVER = """Port 22
ListenAddress {address}
HostKey {directory}/ssh/host_key
AuthorizedKeysFile {directory}/ssh/authorized_keys
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
PidFile none
MaxStartups 100
SetEnv {marker}={state}
"""


def write_client(layout: Layout) -> tuple[str, str]:
    """Write what ssh reads on the front machine; returns the file and the path it is seen at."""
    layout.front.mkdir(exist_ok=True)
    path = layout.front / "ssh_config"
    path.write_text(_CLIENT.format(ssh=layout.front / "ssh"))
    return str(path), str(CLIENT_CONFIG)


def start(layout: Layout, name: str, nodes: tuple[str, ...], *, kvm: bool) -> None:
    """Boot a machine that runs libvirtd and sshd alone; root on the front machine may log in."""
    for needed in (Path(SSHD), CLIENT_CONFIG):
        if not needed.exists():
            raise DemoError(f"{needed} is missing: install openssh-server and openssh-client")
    machines.create_node(layout, name, nodes, kvm=kvm)
    _make_keys(layout, name)
    directory = layout.machine(name)
    config = directory / "sshd_config"
    config.write_text(
        _SERVER.format(address=node_address(name), directory=directory, marker=MARKER, state=layout.state)
    )
    sshd = Service(["/bin/sh", "-c", f"mkdir -p /run/sshd && exec {SSHD} -D -e -f {config}"])
    machines.set_services(layout, name, {**machines.services(layout, name), "sshd": sshd})
    machines.write_hosts(layout, nodes)
    machines.boot(layout, name)
    machines.wait_for_socket(layout, name)
    _wait_for_login(layout, name)


def _make_keys(layout: Layout, name: str) -> None:
    ours, theirs = layout.front / "ssh", layout.machine(name) / "ssh"
    for directory in (ours, theirs):
        directory.mkdir(mode=0o700, exist_ok=True)
    for path in (ours / "id", theirs / "host_key"):
        if not path.exists():
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "demo", "-f", str(path)]
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    (theirs / "authorized_keys").write_text((ours / "id.pub").read_text())
    known = ours / "known_hosts"
    rows = known.read_text().splitlines() if known.exists() else []
    rows = [row for row in rows if not row.startswith(f"{name},")]
    rows.append(f"{name},{node_address(name)} {(theirs / 'host_key.pub').read_text().strip()}")
    known.write_text("\n".join(rows) + "\n")


def _wait_for_login(layout: Layout, name: str) -> None:
    """As the cluster will log in: from the front machine, by name."""
    front = processes.machine_init(layout.state, layout.front)
    if front is None:
        raise DemoError(f"nobody can log in to node {name}: the machine {FRONT} is off")
    command = ["nsenter", "-t", str(front), "-n", "-m", "-u", "ssh", "-o", "BatchMode=yes"]
    command += ["-o", f"ConnectTimeout={_SECONDS:g}", "-o", "ConnectionAttempts=15", f"root@{name}", "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise DemoError(
            f"ssh to node {name} failed: {done.stderr.strip()}: {machines.log_tail(layout, name)}"
        )
