"""Shown by 6 and 9: interfaces on a real bridge, `virsh event` in its forms, and a how-to script: as on a node."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clusterhost.demo import processes
from clusterhost.demo.layout import layout
from tests.support.sameness import Side, difference, steps
from tests.support.stock import Virsh, eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

pytestmark = pytest.mark.timeout(150)

NAME = "plugged"
BRIDGE = "br-plug"
MAC = "52:54:00:aa:cc:01"
OTHER = "52:54:00:aa:cc:02"
NIC = f"<interface type='bridge'><mac address='{MAC}'/><source bridge='{BRIDGE}'/><model type='virtio'/></interface>"
SCENE = f"""
    domiflist {{d}}
    attach-interface {{d}} bridge {BRIDGE} --mac {OTHER} --model virtio --target plug2 --live --config
    sleep 1
    domiflist {{d}}
    domiflist {{d}} --inactive
    attach-interface {{d}} bridge {BRIDGE} --mac {OTHER} --model virtio --live --print-xml
    domif-getlink {{d}} {OTHER}
    domif-setlink {{d}} {OTHER} down
    domif-getlink {{d}} {OTHER}
    domif-setlink {{d}} {OTHER} up --config
    domif-setlink {{d}} plug2 up
    domif-getlink {{d}} plug2
    n: domifstat {{d}} plug2
    domifstat {{d}} nothing
    domiftune {{d}} plug2
    domiftune {{d}} plug2 --config
    domifaddr {{d}} --source arp
    n: domstats {{d}} --interface
    update-device {{d}} {{dir}}/nic.xml --live
    detach-interface {{d}} bridge --mac {OTHER} --live
    sleep 2
    domiflist {{d}}
    domiflist {{d}} --inactive
    detach-interface {{d}} bridge --mac {OTHER} --config
    domiflist {{d}} --inactive
    detach-interface {{d}} bridge --mac {OTHER} --config
    detach-interface {{d}} network --live
    attach-interface {{d}} bridge {BRIDGE} --mac {MAC} --live
    attach-interface {{d}} bridge nobridge --live
    domif-setlink {{d}} {OTHER} up
    dumpxml {{d}} --xpath //interface/source
"""
HOW_TO = """set -eu
virsh define vm.xml
virsh autostart NAME && virsh autostart --disable NAME
virsh start NAME
test "$(virsh list --name | grep -c '^NAME$')" = 1
until [ "$(virsh domstate NAME)" = running ]; do sleep 0.2; done
virsh dumpxml NAME >saved.xml
grep -q "<uuid>$(virsh domuuid NAME)</uuid>" saved.xml
virsh snapshot-create-as NAME before --description "a how-to"
virsh snapshot-list NAME --name
virsh suspend NAME; virsh domstate NAME --reason; virsh resume NAME
virsh snapshot-revert NAME before
virsh domstate NAME
virsh snapshot-delete NAME before
for vm in $(virsh list --all --name); do echo "$vm: $(virsh domstate "$vm")"; done
if virsh dominfo nothing; then exit 1; fi
virsh destroy NAME
until virsh domstate NAME | grep -q 'shut off'; do sleep 0.2; done
virsh undefine NAME
test -z "$(virsh list --all --name)"
""".replace("NAME", NAME)


@pytest.fixture
def bridged(cluster: RealCluster) -> Iterator[None]:
    """Every node has a bridge of this name."""
    paths = layout(cluster.state)

    def ip(node: str, *words: str) -> None:
        init = processes.machine_init(paths.state, paths.machine(node))
        subprocess.run(["nsenter", "-t", str(init), "-n", "ip", "link", *words], check=True)

    made = []
    try:
        for node in cluster.nodes:
            ip(node, "add", BRIDGE, "type", "bridge")
            made.append(node)
            ip(node, "set", BRIDGE, "up")
        yield
    finally:
        for node in made:
            ip(node, "delete", BRIDGE)


def remove(virsh: Virsh) -> None:
    virsh.run("destroy", NAME)
    virsh.run("undefine", NAME, "--managed-save", "--snapshots-metadata")


def test_interfaces_come_and_go_on_a_bridge(cluster: RealCluster, bridged: None, tmp_path: Path) -> None:
    (tmp_path / "nic.xml").write_text(NIC.replace("</interface>", "<link state='down'/></interface>"))
    told = []
    for virsh in (cluster.node("n1"), cluster.virsh):
        try:
            virsh.define(cluster.xml(NAME, devices=NIC), tmp_path)
            virsh("start", NAME)
            eventually(lambda virsh=virsh: booted(virsh), 30, "the guest has its interface")
            side = Side(virsh, NAME, tmp_path, virsh("domuuid", NAME))
            told.append([side.run(step) for step in steps(SCENE)])
        finally:
            remove(virsh)
        eventually(lambda: NAME not in cluster.virsh.names("--all"), 5, "it is gone")
    wrong = [difference(*row) for row in zip(steps(SCENE), *told, strict=True) if row[1] != row[2]]
    assert not wrong, "\n".join(wrong)
    plugged = dict(zip((step.line for step in steps(SCENE)), told[1], strict=True))
    assert plugged[f"domif-getlink {{d}} {OTHER}"].out == f"{OTHER} down"
    assert plugged["domifstat {d} plug2"].code == 0


def booted(virsh: Virsh) -> bool:
    """The guest asks for an address as soon as its driver has the interface."""
    return re.search(r"net\.0\.tx\.pkts=[1-9]", virsh("domstats", NAME, "--interface")) is not None


def test_a_how_to_script_says_the_same_to_a_node_and_to_the_cluster(
    cluster: RealCluster, tmp_path: Path
) -> None:
    told = []
    image = cluster.state / "shared" / "howto.qcow2"
    for number, uri in enumerate((cluster.node_uri("n1"), cluster.endpoint)):
        where = tmp_path / str(number)
        where.mkdir()
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), "8M"], check=True)
        (where / "vm.xml").write_text(cluster.xml(NAME, disk=image))
        environment = {"PATH": "/usr/bin:/bin", "LIBVIRT_DEFAULT_URI": uri, "HOME": str(where), "LC_ALL": "C"}
        done = subprocess.run(
            ["sh", "-c", HOW_TO], cwd=where, env=environment, capture_output=True, text=True, timeout=60
        )
        told.append((done.returncode, done.stdout, done.stderr))
        image.unlink()
        remove(Virsh(uri))
        eventually(lambda: NAME not in cluster.virsh.names("--all"), 5, "it is gone")
    assert told[0][0] == 0, told[0]
    assert told[1] == told[0]


@pytest.mark.parametrize(
    "words",
    [
        ("--list",),
        ("--event", "lifecycle", "--timeout", "1"),
        ("--domain", NAME, "--event", "lifecycle", "--timeout", "20"),
        ("--domain", NAME, "--event", "metadata-change", "--loop", "--timeout", "4"),
        ("--domain", "nobody", "--event", "lifecycle"),
        ("--event", "nothing"),
        ("--domain", NAME),
    ],
    ids=" ".join,
)
def test_virsh_event_prints_what_it_prints_at_a_node(
    cluster: RealCluster, tmp_path: Path, words: tuple[str, ...]
) -> None:
    told = []
    for virsh in (cluster.node("n1"), cluster.virsh):
        try:
            virsh.define(cluster.xml(NAME), tmp_path)
            virsh.define(cluster.xml("bystander"), tmp_path)
            told.append(heard(virsh, words))
        finally:
            remove(virsh)
            virsh.run("undefine", "bystander")
        eventually(lambda: not cluster.virsh.names("--all"), 5, "they are gone")
    assert told[1] == told[0]


def heard(virsh: Virsh, words: tuple[str, ...]) -> tuple[int, str]:
    """Exit code and text of `virsh event WORDS` while something happens."""
    command = ["virsh", "-c", virsh.uri, "event", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        if "--timeout" in words and words[-1] != "1":
            subprocess.run(["sleep", "1"], check=True)  # a registration has no visible sign
            virsh("desc", "bystander", "--title", "--config", "x")
            virsh("desc", NAME, "--title", "--config", "x")
            virsh("start", NAME)
            virsh("destroy", NAME)
        out, _ = process.communicate(timeout=40)
    return process.returncode, out
