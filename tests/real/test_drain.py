"""A node is drained, a home is closed: what goes along with a domain, and what cannot leave."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.command import Command
from tests.support.guest import Console
from tests.support.stock import Outcome, eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

Make = Callable[..., str]


def firmware(cluster: RealCluster, name: str) -> str:
    """<os> children that give a domain an NVRAM file: no firmware package is needed, as nothing boots it."""
    for part in ("code", "vars"):
        (cluster.state / "shared" / f"{part}.fd").write_bytes(bytes(262144))
    return (
        f"<loader readonly='yes' type='pflash'>{cluster.state}/shared/code.fd</loader>"
        f"<nvram template='{cluster.state}/shared/vars.fd'>/var/lib/libvirt/qemu/nvram/{name}_VARS.fd</nvram>"
    )


def files_left(cluster: RealCluster, node: str) -> list[Path]:
    """What a definition may leave behind in libvirt's directories of a node."""
    home = cluster.state / "nodes" / node / "lib" / "qemu"
    found = [
        path for part in ("save", "nvram", "snapshot", "checkpoint") for path in (home / part).rglob("*")
    ]
    return [path for path in found if path.is_file()]


WRITTEN = b"what the firmware wrote".ljust(262144, b"\0")


def nvram(cluster: RealCluster, node: str) -> Path:
    """The file of d-nvram on that node."""
    return cluster.state / "nodes" / node / "lib" / "qemu" / "nvram" / "d-nvram_VARS.fd"


def furnish(cluster: RealCluster, gone: Callable[[str], str], tmp_path: Path) -> set[str]:
    """A domain of every kind on n2."""
    virsh = cluster.virsh
    cluster.place("n2", gone("d-run"), tmp_path)
    virsh("start", "d-run")
    cluster.place("n2", gone("d-off"), tmp_path)
    virsh("autostart", "d-off")
    cluster.place("n2", gone("d-snap"), tmp_path, disk=cluster.image("d-snap"))
    for name in ("one", "two"):
        virsh("snapshot-create-as", "d-snap", name)
    virsh("snapshot-revert", "d-snap", "one")
    cluster.place("n2", gone("d-saved"), tmp_path)
    virsh("start", "d-saved")
    with Console(cluster.endpoint, "d-saved") as console:
        assert console.run("echo kept > /tmp/kept; cat /tmp/kept") == "kept"
    virsh("managedsave", "d-saved")
    xml = cluster.xml(gone("d-nvram"), machine="q35").replace("</os>", firmware(cluster, "d-nvram") + "</os>")
    cluster.view("n2").define(xml, tmp_path)
    virsh("start", "d-nvram")
    virsh("destroy", "d-nvram")
    nvram(cluster, "n2").write_bytes(WRITTEN)
    transient = tmp_path / "transient.xml"
    transient.write_text(cluster.xml(gone("d-transient")))
    cluster.view("n2")("create", str(transient))
    return {"d-run", "d-off", "d-snap", "d-saved", "d-nvram", "d-transient"}


@pytest.mark.timeout(240)
def test_drain_takes_everything_along(
    cluster: RealCluster, command: Command, gone: Callable[[str], str], tmp_path: Path
) -> None:
    virsh = cluster.virsh
    names = furnish(cluster, gone, tmp_path)
    assert cluster.node("n2").names("--all") == names

    drained = command.run("node", "drain", "n2", "--format", "json")
    assert drained.code == 0, drained.err
    assert re.search(r'"moved": 6\b', drained.out)
    assert "6 domains to move" in drained.err
    assert command.node("n2")["admin"] == "disabled"
    assert cluster.node("n2").names("--all") == set()
    assert files_left(cluster, "n2") == []
    assert {command("domain", "where", name) for name in names} == {"n1", "n3"}

    assert len(cluster.running_on("d-run")) == len(cluster.running_on("d-transient")) == 1
    assert "d-off" in virsh.names("--all", "--autostart")
    owner = cluster.node(cluster.owner("d-snap"))
    assert virsh("snapshot-list", "d-snap", "--name").split() == ["one", "two"]
    assert owner("snapshot-current", "d-snap", "--name") == "one"
    assert virsh.names("--all", "--with-managed-save") == {"d-saved"}
    assert nvram(cluster, cluster.owner("d-nvram")).read_bytes() == WRITTEN
    for name in ("d-off", "d-snap", "d-saved", "d-nvram"):
        virsh("start", name)
        assert cluster.running_on(name) == [cluster.owner(name)]
    assert nvram(cluster, cluster.owner("d-nvram")).read_bytes() == WRITTEN
    with Console(cluster.endpoint, "d-saved") as console:
        assert console.run("cat /tmp/kept") == "kept"
    virsh("destroy", "d-snap")
    virsh("snapshot-revert", "d-snap", "two")
    job = command.json("job", "list")[0]
    assert (job["kind"], job["object"], job["state"], job["done"]) == ("drain", "n2", "done", 6)


@pytest.mark.timeout(120)
def test_a_start_takes_the_definition_along_when_its_home_is_closed(
    cluster: RealCluster, command: Command, gone: Callable[[str], str], tmp_path: Path
) -> None:
    virsh = cluster.virsh
    cluster.place("n3", gone("mover"), tmp_path, disk=cluster.image("mover"))
    virsh("snapshot-create-as", "mover", "first")
    virsh("start", "mover")
    with Console(cluster.endpoint, "mover") as console:
        assert console.run("echo kept > /tmp/kept; cat /tmp/kept") == "kept"
    virsh("managedsave", "mover")
    command("node", "disable", "n3")
    virsh("start", "mover")
    assert cluster.owner("mover") in ("n1", "n2")
    assert virsh("snapshot-list", "mover", "--name").split() == ["first"]
    with Console(cluster.endpoint, "mover") as console:
        assert console.run("cat /tmp/kept") == "kept"
    assert files_left(cluster, "n3") == []


@pytest.mark.timeout(90)
def test_checkpoints_go_where_the_definition_goes(
    cluster: RealCluster, command: Command, gone: Callable[[str], str], tmp_path: Path
) -> None:
    virsh = cluster.virsh
    cluster.place("n1", gone("marked"), tmp_path, disk=cluster.image("marked"))
    virsh("start", "marked")
    for name in ("one", "two"):
        virsh("checkpoint-create-as", "marked", name)
    virsh("destroy", "marked")
    command("domain", "move", "marked", "--to", "n3", "--offline")
    assert cluster.owner("marked") == "n3"
    assert virsh("checkpoint-list", "marked", "--name").split() == ["one", "two"]
    virsh("start", "marked")
    virsh("checkpoint-create-as", "marked", "three")
    assert virsh("checkpoint-parent", "marked", "three") == "two"


@pytest.mark.timeout(90)
def test_what_cannot_leave_is_named_and_stays_as_it_was(
    cluster: RealCluster, command: Command, gone: Callable[[str], str], tmp_path: Path
) -> None:
    virsh = cluster.virsh
    cluster.place("n2", gone("bound"), tmp_path, disk=cluster.image("bound"))
    virsh("snapshot-create-as", "bound", "one")
    virsh("start", "bound")
    cluster.place("n2", gone("free"), tmp_path)
    code, text = command.fails("node", "drain", "n2")
    reason = "Requested operation is not valid: cannot migrate domain with 1 snapshots"
    assert (code, text) == (1, f"error: 1 of 2 domains stay on node n2: bound: {reason}")
    assert (cluster.running_on("bound"), command.node("n2")["admin"]) == (["n2"], "draining")
    assert command("domain", "where", "free") in ("n1", "n3")
    job = command.json("job", "list")[0]
    assert (job["kind"], job["state"], job["done"], job["total"]) == ("drain", "failed", 1, 2)
    virsh("destroy", "bound")
    command("node", "drain", "n2")
    assert command.node("n2")["domains"] == 0
    assert virsh("snapshot-list", "bound", "--name").split() == ["one"]


@pytest.mark.timeout(120)
def test_a_drained_node_is_empty_until_it_is_enabled_again(
    cluster: RealCluster, command: Command, make: Make
) -> None:
    names = [make(f"drained{number}", start=True) for number in range(3)]
    victim = cluster.owner(names[0])
    try:
        assert command("node", "drain", victim) == f"node {victim} is drained"
        assert cluster.node(victim).names("--all") == set()
        assert cluster.virsh.names() == set(names)
        assert cluster.owner(make("later", start=True)) != victim
    finally:
        command("node", "enable", victim)
    assert next(row["admin"] for row in command.json("node", "list") if row["name"] == victim) == "enabled"


OWN = Path("/var/lib/libvirt/own/own.qcow2")
"""A disk that a node has for itself, as the node sees it; it is in no pool."""


def copies(cluster: RealCluster) -> list[str]:
    """Nodes that have the disk."""
    return [node for node in cluster.nodes if own(cluster, node).exists()]


def own(cluster: RealCluster, node: str) -> Path:
    return cluster.state / "nodes" / node / "lib" / "own" / OWN.name


@pytest.fixture
def local(cluster: RealCluster, gone: Callable[[str], str], tmp_path: Path) -> Iterator[str]:
    """A running domain on n2 with a disk that only n2 has, and a mark on it."""
    own(cluster, "n2").parent.mkdir(exist_ok=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(own(cluster, "n2")), "64M"], check=True)
    name = cluster.place("n2", gone("local"), tmp_path, disk=OWN)
    cluster.virsh("start", name)
    with Console(cluster.endpoint, name, seconds=60) as console:
        console.run("dd if=/dev/urandom of=/dev/vda bs=1M count=16; echo mark | dd of=/dev/vda conv=fsync")
    yield name
    cluster.virsh.run("destroy", name)
    for node in cluster.nodes:
        own(cluster, node).unlink(missing_ok=True)


@pytest.mark.timeout(180)
def test_a_disk_of_its_own_keeps_a_domain_until_it_may_be_copied(
    cluster: RealCluster, command: Command, local: str
) -> None:
    code, text = command.fails("node", "drain", "n2")
    assert code == 1
    assert f"n1, n3: does not see its disk {OWN} of node n2" in text
    assert text.endswith("; --copy-storage all copies its disks")
    code, text = command.fails("domain", "move", local, "--to", "n1", "--copy-storage", "inc")
    assert text == f"error: node n1 has no image at {OWN}, which an incremental copy needs"
    assert cluster.running_on(local) == ["n2"]

    cluster.virsh("migrate-setspeed", local, "16")  # a quick machine copies it before anyone looks
    drained = command.run("node", "drain", "n2", "--copy-storage", "all")
    assert (drained.code, drained.out) == (0, "node n2 is drained"), drained.err
    assert re.search(r"local: \d+ of \d+ MiB", drained.err)
    (target,) = cluster.running_on(local)
    assert (target != "n2", copies(cluster)) == (True, sorted(["n2", target]))
    with Console(cluster.endpoint, local) as console:
        assert console.run("echo 3 > /proc/sys/vm/drop_caches; head -c 4 /dev/vda; echo") == "mark"
    assert [cluster.node(node)("pool-list", "--all", "--name") for node in cluster.nodes] == ["default"] * 3

    command("node", "enable", "n2")
    code, text = command.fails("domain", "move", local, "--to", "n2", "--copy-storage", "all")
    assert text == f"error: node n2 has another file at {OWN}, which copying the disk would overwrite"


@pytest.mark.timeout(180)
def test_a_copy_that_is_broken_off_leaves_nothing(cluster: RealCluster, command: Command, local: str) -> None:
    cluster.virsh("migrate-setspeed", local, "1")
    outcomes: list[Outcome] = []
    mover = threading.Thread(
        target=lambda: outcomes.append(
            command.run("domain", "move", local, "--to", "n3", "--copy-storage", "all")
        )
    )
    mover.start()
    eventually(lambda: copies(cluster) == ["n2", "n3"], 30, "the image is made")
    eventually(lambda: cluster.virsh.run("domjobabort", local).code == 0, 30, "the job is stopped")
    mover.join(60)
    assert outcomes[0].code == 1, outcomes
    assert cluster.running_on(local) == ["n2"]
    assert copies(cluster) == ["n2"]
    assert cluster.node("n3")("pool-list", "--all", "--name") == "default"


@pytest.mark.timeout(120)
def test_a_definition_stays_with_a_disk_that_only_its_node_has(
    cluster: RealCluster, command: Command, local: str
) -> None:
    cluster.virsh("destroy", local)
    command("node", "disable", "n2")
    assert f"n1, n3: does not see its disk {OWN} of node n2" in cluster.virsh.fails("start", local)
    code, text = command.fails("node", "drain", "n2", "--copy-storage", "all")
    assert code == 1
    assert "copy them there by hand, or start it and move it with --copy-storage all" in text
    assert cluster.owner(local) == "n2"
    command("node", "enable", "n2")
    cluster.virsh("start", local)
    assert cluster.running_on(local) == ["n2"]
