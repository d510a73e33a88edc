"""The demo cluster itself: real nodes, real guests, and nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clusterhost.demo import cgroups, initrd, processes
from clusterhost.demo import cluster as demo
from clusterhost.demo.initrd import Entry
from clusterhost.demo.layout import layout, node_address
from tests.support.cluster import NodesOnly, node_sockets, nodes, virsh, why_not
from tests.support.guest import Console
from tests.support.stock import eventually

__all__ = ["node_sockets", "nodes"]

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]
needs_nodes = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

NETWORK = """<network><name>plug</name><bridge name='virbr9'/>
<ip address='192.168.77.1' netmask='255.255.255.0'><dhcp><range start='192.168.77.10' end='192.168.77.99'/></dhcp></ip>
</network>"""

CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], 9), timeout=1.5)"
UP = "import sys; from pathlib import Path; from clusterhost.demo import cluster; "
UP += "cluster.up(Path(sys.argv[1]), 2, lambda line: print(line, flush=True), front_end=False)"


@contextmanager
def running(nodes: NodesOnly, node: str, name: str, **options: object) -> Iterator[str]:
    """Define and start a guest; yields its node's URI, and removes it from wherever it is in the end."""
    definition = nodes.state / f"{name}.xml"
    definition.write_text(nodes.guest.domain_xml(name, **options))  # type: ignore[arg-type]
    nodes.virsh(node, "define", str(definition))
    nodes.virsh(node, "start", name)
    try:
        yield nodes.uri(node)
    finally:
        definition.unlink()
        for every in nodes.names:
            nodes.virsh(every, "destroy", name, check=False)
            nodes.virsh(every, "undefine", name, check=False)


@pytest.fixture
def empty() -> Iterator[Path]:
    """A new state directory with a short path; what a test left there is taken down."""
    state = Path(tempfile.mkdtemp(prefix="ch-", dir="/tmp"))
    yield state
    demo.down(state, lambda line: None)
    if state.exists():
        for path in state.iterdir():
            path.unlink()
        state.rmdir()


def everything_gone(state: Path) -> None:
    """No process, mount or file of the demo is left."""
    assert list(processes.marked(state)) == []
    for mountinfo in Path("/proc").glob("[0-9]*/mountinfo"):
        try:
            assert f"{state}/" not in mountinfo.read_text(), f"a mount of {state} in {mountinfo}"
        except OSError:
            continue  # the process ended while we looked
    assert list(cgroups.found(state)) == []
    assert not state.exists() or not any(state.iterdir())


def namespaces(pid: int | None) -> set[str]:
    """The namespaces of a machine by its first process."""
    return {os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("net", "mnt", "pid", "uts")}


def namespaces_in_use() -> set[str]:
    """The namespaces of all processes; a zombie, which waits for this machine's init to reap it, is none."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/ns/*"):
        try:
            if (link.parent.parent / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.add(os.readlink(link))
        except OSError:
            continue  # the process ended while we looked
    return found


def reaches(nodes: NodesOnly, source: str, target: str) -> str:
    """What a TCP connection between two nodes meets: "refused" by the other's kernel, or "timed out"."""
    command = [
        "nsenter",
        "-t",
        str(nodes.init(source)),
        "-n",
        sys.executable,
        "-c",
        CONNECT,
        node_address(target),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return (
        done.stderr.strip().splitlines()[-1].partition(" ")[2].rpartition("] ")[2].removeprefix("Connection ")
    )


@needs_nodes
def test_three_nodes_are_three_hosts(nodes: NodesOnly) -> None:
    assert nodes.names == ("n1", "n2", "n3")
    assert [nodes.virsh(name, "hostname").strip() for name in nodes.names] == ["n1", "n2", "n3"]
    uuids = {
        nodes.virsh(name, "capabilities").partition("<uuid>")[2].partition("</uuid>")[0]
        for name in nodes.names
    }
    assert len(uuids) == 3
    assert [fact.state for fact in demo.status(nodes.state)] == ["on"] * 3


@needs_nodes
def test_capabilities_offer_only_the_domain_type_that_runs(nodes: NodesOnly) -> None:
    offers_kvm = "<domain type='kvm'" in nodes.virsh("n1", "capabilities")
    assert offers_kvm == (nodes.guest.domain_type == "kvm")


@needs_nodes
def test_a_guest_counts_answers_a_shell_and_powers_off_on_acpi(nodes: NodesOnly) -> None:
    with running(nodes, "n1", "counts") as uri:
        with Console(uri, "counts") as console:
            first = console.count()
            assert console.count() == first + 1
            assert console.run("echo $((40 + 2))") == "42"
        nodes.virsh("n1", "shutdown", "counts")
        eventually(
            lambda: nodes.virsh("n1", "domstate", "counts").strip() == "shut off", 15, "shut off by ACPI"
        )


@needs_nodes
@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_disk_interface_and_cpu_are_plugged_into_a_running_guest(nodes: NodesOnly, machine: str) -> None:
    disk, network = nodes.shared / "plug.qcow2", nodes.state / "plug-network.xml"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "16M"], check=True)
    network.write_text(NETWORK)
    nodes.virsh("n2", "net-create", str(network))
    try:
        with (
            running(nodes, "n2", "plug", machine=machine, max_vcpus=2) as uri,
            Console(uri, "plug") as console,
        ):
            console.count()
            assert console.run("ls /sys/block; nproc; ls -d /sys/class/net/eth*").split()[:1] == ["1"]
            how = ("--driver", "qemu", "--subdriver", "qcow2", "--cache", "none")
            nodes.virsh("n2", "attach-disk", "plug", str(disk), "vda", *how)
            nodes.virsh("n2", "attach-interface", "plug", "network", "plug", "--model", "virtio", "--live")
            nodes.virsh("n2", "setvcpus", "plug", "2", "--live")
            eventually(
                lambda: console.run("ls /sys/block; nproc").split() == ["vda", "2"], 20, "disk and CPU"
            )
            eventually(
                lambda: "inet 192.168.77." in console.run("ip -4 addr show eth0"), 30, "an address by DHCP"
            )
            nodes.virsh("n2", "detach-disk", "plug", "vda")
            eventually(lambda: "vda" not in console.run("ls /sys/block"), 20, "the disk is unplugged")
    finally:
        nodes.virsh("n2", "net-destroy", "plug")
        disk.unlink()
        network.unlink()


@needs_nodes
def test_stock_virsh_migrates_a_guest_with_a_shared_disk_between_nodes(nodes: NodesOnly) -> None:
    disk = nodes.shared / "mover.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "16M"], check=True)
    try:
        with running(nodes, "n1", "mover", disk=disk) as uri:
            with Console(uri, "mover") as console:
                before = console.count()
            words = ("migrate", "--live", "--unsafe", "--persistent", "--undefinesource", "mover")
            nodes.virsh("n1", *words, nodes.uri("n2"))
            assert "mover" not in nodes.virsh("n1", "list", "--all")
            with Console(nodes.uri("n2"), "mover") as console:
                after = console.count()
                assert after > before
                assert console.count() == after + 1
    finally:
        disk.unlink()


@needs_nodes
def test_a_power_cut_ends_all_of_a_node_and_its_definitions_survive(nodes: NodesOnly) -> None:
    with running(nodes, "n3", "lamp"):
        machine = namespaces(nodes.init("n3"))
        nodes.power_cut("n3")
        try:
            assert not machine & namespaces_in_use()
            assert [fact.state for fact in demo.status(nodes.state)] == ["on", "on", "off"]
            nodes.power_cut("n3")
        finally:
            nodes.power_on("n3")
        nodes.power_on("n3")
        assert nodes.virsh("n3", "domstate", "lamp").strip() == "shut off"
        nodes.virsh("n3", "start", "lamp")
        assert reaches(nodes, "n3", "n1") == reaches(nodes, "n1", "n3") == "refused"


@needs_nodes
def test_a_partition_hangs_connections_both_ways_until_it_is_healed(nodes: NodesOnly) -> None:
    assert reaches(nodes, "n1", "n2") == "refused"
    nodes.partition("n2")
    try:
        nodes.partition("n2")
        assert reaches(nodes, "n1", "n2") == reaches(nodes, "n2", "n1") == "timed out"
        assert reaches(nodes, "n1", "n3") == "refused"
        assert demo.status(nodes.state)[1].state == "partitioned"
        assert nodes.virsh("n2", "hostname").strip() == "n2"
        nodes.power_cut("n2")
        nodes.power_on("n2")
        assert reaches(nodes, "n1", "n2") == "timed out"
    finally:
        nodes.heal("n2")
    nodes.heal("n2")
    assert reaches(nodes, "n1", "n2") == reaches(nodes, "n2", "n1") == "refused"


@needs_nodes
def test_a_killed_libvirtd_is_started_again_and_its_guests_live(nodes: NodesOnly) -> None:
    with running(nodes, "n1", "lives"):
        killed = nodes.pid("n1")
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: nodes.pid("n1") not in (None, killed), 10, "another libvirtd")
        eventually(
            lambda: "running" in nodes.virsh("n1", "domstate", "lives", check=False), 15, "the guest found"
        )


@needs_nodes
def test_up_again_describes_what_is_up_and_refuses_another_size(nodes: NodesOnly) -> None:
    assert demo.up(nodes.state, 3, lambda line: None, front_end=False) == nodes.info
    with pytest.raises(demo.DemoError, match="holds a demo of 3 nodes, 2 were asked for"):
        demo.up(nodes.state, 2, lambda line: None, front_end=False)
    with pytest.raises(demo.DemoError, match="has no node n9"):
        demo.power_cut(nodes.state, "n9")


@needs_nodes
def test_a_whole_demo_goes_down_without_a_trace_after_its_parts_were_killed(empty: Path) -> None:
    links = {path.name for path in Path("/sys/class/net").iterdir()}
    info = demo.up(empty, 1, lambda line: None)
    assert info.endpoint is not None
    assert virsh(info.endpoint, "uri").strip() != ""
    used = namespaces(demo.status(empty)[0].pid) | namespaces(
        processes.machine_init(empty, layout(empty).front)
    )
    used -= namespaces(os.getpid())
    for machine, service in (("front", "front-end"), ("n1", "agent")):
        pid = demo.service_pid(empty, machine, service)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        eventually(
            lambda m=machine, s=service, p=pid: demo.service_pid(empty, m, s) not in (None, p), 10, service
        )
    demo.stop_service(empty, "front", "front-end")
    assert demo.service_pid(empty, "front", "front-end") is None
    demo.start_service(empty, "front", "front-end")
    endpoint = info.endpoint
    eventually(lambda: "error" not in virsh(endpoint, "list", check=False), 15, "the front end answers again")
    demo.down(empty, lambda line: None)
    assert not used & namespaces_in_use()
    assert {path.name for path in Path("/sys/class/net").iterdir()} <= links
    everything_gone(empty)
    demo.down(empty, lambda line: None)


@needs_nodes
@pytest.mark.parametrize("line", ["making the guest image", "made the bridge", "node n1 is up"])
def test_down_removes_what_a_killed_up_left(empty: Path, line: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", UP, str(empty)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for said in process.stdout:
            if said.startswith(line):
                break
        process.kill()
    if line != "making the guest image":
        with pytest.raises(demo.DemoError, match="not complete"):
            demo.up(empty, 2, lambda line: None, front_end=False)
    demo.down(empty, lambda line: None)
    everything_gone(empty)


@needs_nodes
def test_a_domain_is_in_a_control_group_of_its_node_until_the_power_is_cut(nodes: NodesOnly) -> None:
    if not cgroups.usable():
        pytest.skip("no control groups of version 1 are mounted here")

    def groups() -> list[Path]:
        return [path for top in cgroups.found(nodes.state) for path in (top / "n2").rglob("*tuned*")]

    with running(nodes, "n2", "tuned"):
        nodes.virsh("n2", "memtune", "tuned", "--hard-limit", "1000000", "--live")
        limits = {path / "memory.limit_in_bytes" for path in groups()}
        assert [path.read_text().strip() for path in limits if path.exists()] == ["1024000000"]
        nodes.power_cut("n2")
        nodes.power_on("n2")
        assert groups() == []


def test_groups_are_found_where_a_container_shows_them() -> None:
    mounted = """30 25 0:26 /docker/1 /sys/fs/cgroup/cpu,cpuacct ro,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
31 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 25 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
33 25 0:29 /other /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio
34 25 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""
    inside = "5:cpu,cpuacct:/docker/1/a\n4:memory:/user\n3:blkio:/\n1:name=systemd:/\n0::/\n"
    assert {(tree.options, str(tree.own)) for tree in cgroups.hierarchies(mounted, inside)} == {
        ("cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct/a"),
        ("memory", "/sys/fs/cgroup/memory/user"),
    }


def test_a_directory_that_is_no_demo_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    for act in (
        lambda: demo.down(tmp_path, lambda line: None),
        lambda: demo.up(tmp_path, 1, lambda line: None),
    ):
        with pytest.raises(demo.DemoError, match=r"holds no demo|too long|needs root"):
            act()
    assert (tmp_path / "mine").read_text() == "precious"


@pytest.mark.parametrize("path", ["/run/demo", "/var/lib/libvirt/demo", "/", "/tmp/" + "x" * 80])
def test_a_state_directory_that_cannot_work_is_refused(path: str) -> None:
    with pytest.raises(demo.DemoError, match="state directory"):
        layout(Path(path))


def test_the_archive_is_read_back_by_cpio_and_is_the_same_each_time(tmp_path: Path) -> None:
    entries = [Entry("etc", 0o040755), Entry("etc/a", 0o100755, b"12345"), Entry("etc/b", 0o120777, b"a")]
    written = initrd.archive(entries)
    assert written == initrd.archive(entries)
    subprocess.run(["busybox", "cpio", "-i"], input=written, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "etc" / "b").read_bytes() == b"12345"
    assert (tmp_path / "etc" / "b").readlink() == Path("a")


def test_modules_load_after_what_they_need(tmp_path: Path) -> None:
    (tmp_path / "modules.dep").write_text(
        "k/virtio-net.ko: k/failover.ko k/ring.ko\nk/ring.ko:\nk/failover.ko: k/ring.ko\n"
    )
    order = initrd.load_order(tmp_path, ["virtio_net", "built_in", "ring"])
    assert order == ["k/ring.ko", "k/failover.ko", "k/virtio-net.ko"]


def test_the_newest_kernel_is_chosen_by_number(tmp_path: Path) -> None:
    for release in ("6.1.0-9-cloud-amd64", "6.1.0-56-cloud-amd64", "6.2.0-1-cloud-amd64"):
        (tmp_path / f"vmlinuz-{release}").touch()
    for release in ("6.1.0-9-cloud-amd64", "6.1.0-56-cloud-amd64"):
        (tmp_path / "modules" / release).mkdir(parents=True)
    assert initrd.newest_kernel(tmp_path, tmp_path / "modules").image.name == "vmlinuz-6.1.0-56-cloud-amd64"


@needs_nodes
def test_what_is_recorded_names_the_nodes(nodes: NodesOnly) -> None:
    assert json.loads((nodes.state / "run.json").read_text()) == {
        "nodes": ["n1", "n2", "n3"],
        "endpoint": None,
    }
