"""Where the service puts domains: by the CPU models and the disks of nodes, over fake nodes and a real store."""

import pytest

from clusterhost.model.errors import InvalidOperation, NoPlacement
from clusterhost.service.admin import METHODS
from tests.support.clusters import running

CHECKED = "<cpu mode='custom' match='exact' check='partial'><model fallback='forbid'>EPYC</model></cpu>"
DISK = "<devices><disk type='file'><source file='/images/web.qcow2'/><target dev='vda'/></disk></devices>"
CDROM = (
    "<devices><disk type='file' device='cdrom'><source file='/iso/cd.iso'/><target dev='sda'/><readonly/></disk>"
    "</devices>"
)


async def reasons(front, name):
    """Node -> why or why not, as `placement explain` tells."""
    told = await METHODS["placement.explain"](front.world, {"domain": name}, lambda *_: None)
    return {row["node"]: row["text"] for row in told["reasons"]}


def told(front, **models):
    """Tell the cluster which CPUs each node can run; the nodes join again."""
    for name, usable in models.items():
        front.machines[name].cpu_models = {"qemu64": "yes", **usable}
        front.cut(name)
        front.mend(name)


async def test_a_definition_goes_where_its_cpu_can_be_run(tmp_path):
    async with running(tmp_path) as front:
        told(front, n1={"EPYC": "no"}, n2={}, n3={"EPYC": "yes"})
        for number in range(3):
            await front.define(f"web{number}", more=CHECKED)
            assert (await front.begin(f"web{number}")).ok
            assert front.world.cluster.by_name(f"web{number}").node == "n3"
        found = await reasons(front, "web0")
        assert found["n1"] == found["n2"] == "cannot run CPU EPYC, web0 needs it"


async def test_a_start_leaves_a_home_that_cannot_run_its_cpu(tmp_path):
    async with running(tmp_path) as front:
        await front.define("web", more=CHECKED)
        home = front.world.cluster.by_name("web").node
        told(front, **{name: {"EPYC": "no" if name != "n2" else "yes"} for name in ("n1", "n2", "n3")})
        assert home == "n1"
        assert (await front.begin("web")).ok
        assert front.world.cluster.by_name("web").node == "n2"


async def test_a_cpu_that_nobody_has_is_refused_by_a_libvirtd_in_its_own_words(tmp_path):
    async with running(tmp_path) as front:
        told(front, n1={"EPYC": "no"}, n2={}, n3={})
        await front.define("web", more=CHECKED)
        home = front.world.cluster.by_name("web").node
        answer = await front.begin("web")
        assert answer.ok  # the fake one knows no CPUs: what matters is that it was asked, at home
        assert front.world.cluster.by_name("web").node == home


async def test_a_node_that_is_full_is_no_reason_to_try_a_cpu_elsewhere(tmp_path):
    async with running(tmp_path) as front:
        told(front, n1={"EPYC": "yes"}, n2={"EPYC": "no"}, n3={"EPYC": "no"})
        await front.define("web", memory_mib=4096, more=CHECKED)
        with pytest.raises(
            NoPlacement, match=r"n1: has .* free, web needs 4096 MiB; n2, n3: cannot run CPU EPYC"
        ):
            await front.begin("web")


async def test_a_start_goes_where_the_disk_is_seen(tmp_path):
    async with running(tmp_path) as front:
        await front.define("web", more=DISK)
        assert front.world.cluster.by_name("web").node == "n1"
        for name in ("n1", "n3"):
            front.machines[name].disks["/images/web.qcow2"] = "nfs:12"
        front.machines["n2"].disks["/images/web.qcow2"] = "own:12"
        await METHODS["node.disable"](front.world, {"name": "n1"}, lambda *_: None)
        assert (await front.begin("web")).ok
        assert front.world.cluster.by_name("web").node == "n3"


async def test_a_disk_that_only_its_node_sees_keeps_the_domain_there(tmp_path):
    async with running(tmp_path) as front:
        await front.define("web", more=DISK)
        front.machines["n1"].disks["/images/web.qcow2"] = "own:1"
        front.machines["n2"].disks["/images/web.qcow2"] = "own:2"
        await METHODS["node.disable"](front.world, {"name": "n1"}, lambda *_: None)
        with pytest.raises(
            NoPlacement, match=r"n2: has another file at its disk .*n3: does not see its disk"
        ):
            await front.begin("web")
        with pytest.raises(InvalidOperation, match=r"web: no node can take web.*copy them there by hand"):
            await METHODS["node.drain"](front.world, {"name": "n1"}, lambda *_: None)
        with pytest.raises(
            InvalidOperation, match=r"node n3 does not see its disk /images/web.qcow2 of node n1"
        ):
            await METHODS["domain.move"](front.world, {"domain": "web", "to": "n3"}, lambda *_: None)
        assert front.world.cluster.by_name("web").node == "n1"
        found = await reasons(front, "web")
        assert found["n3"] == "does not see its disk /images/web.qcow2 of node n1"


async def test_an_image_that_each_node_has_its_own_of_or_nobody_has_binds_nothing(tmp_path):
    async with running(tmp_path) as front:
        await front.define("web", more=CDROM)
        await front.define("new", more=DISK)
        for machine in front.machines.values():
            machine.disks["/iso/cd.iso"] = f"own:{machine.name}"
        for name in ("web", "new"):
            home = front.world.cluster.by_name(name).node
            await METHODS["node.disable"](front.world, {"name": home}, lambda *_: None)
            assert (await front.begin(name)).ok
            assert front.world.cluster.by_name(name).node != home
            await METHODS["node.enable"](front.world, {"name": home}, lambda *_: None)
