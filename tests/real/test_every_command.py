"""Shown by 2, 3, 6: every virsh command about domains and the host says at the endpoint what a node says."""

from __future__ import annotations

import subprocess
import uuid as uuids
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.real.command_table import ELSEWHERE, GROUPS, HOST, OFF
from tests.real.command_table_on import ON
from tests.real.differences import DIFFERENCES, document
from tests.support.sameness import Side, difference, steps
from tests.support.stock import Virsh, eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

NAME = "same"
DEVICES = """<disk type='file' device='cdrom'><target dev='hda' bus='ide'/><readonly/></disk>
<interface type='user'><mac address='52:54:00:aa:bb:01'/><model type='virtio'/></interface>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
<graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1'/>
<video><model type='cirrus'/></video>"""
NIC = "<interface type='user'><mac address='52:54:00:aa:bb:{}'/><model type='virtio'/></interface>"
BACKUP = """<domainbackup><disks><disk name='vda' backup='yes' type='file'><target file='{}'/></disk></disks>
</domainbackup>"""


def files(cluster: RealCluster, directory: Path, uuid: str) -> str:
    """Disks and XML files of one side; returns the domain's XML."""
    directory.mkdir()
    for name in ("a", "b"):
        image = str(directory / f"{name}.qcow2")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "16M"], check=True)
    (directory / "c.raw").write_bytes(bytes(1 << 20))
    (directory / "cd.iso").write_bytes(bytes(1 << 20))
    own = cluster.xml(NAME, uuid=uuid, max_vcpus=4, disk=directory / "a.qcow2", devices=DEVICES)
    other = str(uuids.uuid4())
    texts = {
        "self": own,
        "nic": NIC.format("02"),
        "othernic": NIC.format("98"),
        "unknown": "<nothing/>",
        "broken": "<domain type='qemu'><name>x</name",
        "noname": own.replace(f"<name>{NAME}</name>", ""),
        "notype": own.replace("type='qemu'", "", 1)
        .replace("type='kvm'", "", 1)
        .replace(NAME, "x")
        .replace(uuid, other),
        "badtype": own.replace("type='qemu'", "type='nothing'", 1).replace(NAME, "x").replace(uuid, other),
        "badmachine": own.replace("machine='pc'", "machine='nothing'")
        .replace(NAME, "x")
        .replace(uuid, other),
        "sameuuid": own.replace(f"<name>{NAME}</name>", "<name>x</name>"),
        "samename": own.replace(uuid, other),
        "baduuid": own.replace(uuid, "not-a-uuid").replace(NAME, "x"),
        "empty": "",
        "extra": own.replace("<devices>", "<extra/><devices>"),
        "cd": f"<disk type='file' device='cdrom'><source file='{directory}/cd.iso'/>"
        "<target dev='hda' bus='ide'/><readonly/></disk>",
        "snapshot": "<domainsnapshot><name>three</name><description>x</description></domainsnapshot>",
        "checkpoint": "<domaincheckpoint><name>c3</name></domaincheckpoint>",
        "checkpoint2": "<domaincheckpoint><name>c4</name></domaincheckpoint>",
        "backup": BACKUP.format(directory / "backup1"),
        "backup2": BACKUP.format(directory / "backup2"),
        "cpu": "<cpu><arch>x86_64</arch><model>qemu64</model></cpu>",
    }
    for name, text in texts.items():
        (directory / f"{name}.xml").write_text(text)
    return own


def remove(virsh: Virsh) -> None:
    """The domain, whatever a scene made of it."""
    for name in (NAME, f"{NAME}-2", f"{NAME}-3", "x"):
        virsh.run("destroy", name)
        virsh.run("undefine", name, "--managed-save", "--snapshots-metadata", "--checkpoints-metadata")


@pytest.fixture
def side(cluster: RealCluster) -> Iterator[Callable[[str, Virsh, Virsh], Side]]:
    """side("a", virsh, home) makes the files, and the domain at `home`; gone after the test."""
    with ExitStack() as undo:

        def make(name: str, virsh: Virsh, home: Virsh) -> Side:
            uuid = str(uuids.uuid4())
            directory = cluster.state / "shared" / f"same-{name}"
            undo.callback(subprocess.run, ["rm", "-rf", str(directory)], check=True)
            files(cluster, directory, uuid)
            undo.callback(remove, home)
            home("define", str(directory / "self.xml"))
            return Side(virsh, NAME, directory, uuid)

        yield make


def told(side: Side, scene: str, running: bool) -> list[tuple[str, object]]:
    """What each step of the scene gave."""
    if running:
        side.virsh("start", NAME)
        # It has to boot: hot-plug and ACPI are answered by the guest.
        wait_for_boot(side)
    return [(step.line, side.run(step)) for step in steps(scene)]


def wait_for_boot(side: Side) -> None:
    """Until the guest's kernel has found its devices."""
    Side(side.virsh, side.name, side.directory, side.uuid).run(steps("sleep 8")[0])
    eventually(lambda: "unused" in side.virsh("dommemstat", side.name), 60, "the guest's balloon driver")


def compare(
    cluster: RealCluster, make: Callable[[str, Virsh, Virsh], Side], scene: str, running: bool
) -> str:
    """All unexpected differences of a scene, as text."""
    direct = make("a", cluster.node("n1"), cluster.node("n1"))
    expected = told(direct, scene, running)
    remove(cluster.node("n1"))
    ours = make("b", cluster.virsh, cluster.view("n1"))
    found = told(ours, scene, running)
    return "\n".join(
        difference(step, theirs, mine)  # type: ignore[arg-type]
        for step, (_, theirs), (_, mine) in zip(steps(scene), expected, found, strict=True)
        if theirs != mine and step.line not in DIFFERENCES
    )


def same(differences: str) -> None:
    """Fail with all of the text: pytest would cut a comparison."""
    if differences:
        pytest.fail(differences, pytrace=False)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("scene", OFF)
def test_a_defined_domain_answers_as_on_a_node(
    cluster: RealCluster, side: Callable[[str, Virsh, Virsh], Side], scene: str
) -> None:
    same(compare(cluster, side, OFF[scene], running=False))


@pytest.mark.timeout(240)
@pytest.mark.parametrize("scene", ON)
def test_a_running_domain_answers_as_on_a_node(
    cluster: RealCluster, side: Callable[[str, Virsh, Virsh], Side], scene: str
) -> None:
    same(compare(cluster, side, ON[scene], running=True))


@pytest.mark.timeout(120)
def test_the_host_in_a_nodes_view_answers_as_the_node(
    cluster: RealCluster, side: Callable[[str, Virsh, Virsh], Side]
) -> None:
    node = side("a", cluster.node("n1"), cluster.node("n1"))
    view = Side(cluster.view("n1"), NAME, node.directory, node.uuid)
    texts = [difference(step, node.run(step), view.run(step)) for step in steps(HOST) if step.line != "uri"]
    same("\n".join(text for text in texts if text))


@pytest.mark.timeout(120)
def test_the_host_refuses_as_a_node(cluster: RealCluster, side: Callable[[str, Virsh, Virsh], Side]) -> None:
    node = side("a", cluster.node("n1"), cluster.node("n1"))
    ours = Side(cluster.virsh, NAME, node.directory, node.uuid)
    wrong = []
    for step in steps(HOST):
        theirs, mine = node.run(step), ours.run(step)
        if step.line not in DIFFERENCES and (theirs.code, theirs.err) != (mine.code, mine.err):
            wrong.append(difference(step, theirs, mine))
    same("\n".join(wrong))


def test_every_command_has_a_step() -> None:
    lines = {step.line.split()[0] for scene in (*OFF.values(), *ON.values(), HOST) for step in steps(scene)}
    known = set()
    for group in GROUPS:
        shown = subprocess.run(["virsh", "-q", "help", group], capture_output=True, text=True, check=True)
        known |= {line.split()[0] for line in shown.stdout.splitlines() if line.startswith("    ")}
    assert known - lines - set(ELSEWHERE) == set()


def test_the_document_of_differences_is_fresh() -> None:
    text = (Path(__file__).parents[2] / "docs" / "differences.md").read_text()
    assert text == document()
