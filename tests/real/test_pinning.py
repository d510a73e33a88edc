"""Shown by 6: vcpupin, emulatorpin, iothreadpin, vcpuinfo, cpu-stats and numatune in the cluster's numbers.

The demo's three nodes have as many CPUs each as the machine: node N's come after those of the nodes before it.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import libvirt
import pytest

from clusterhost.model.cellmap import format_set
from tests.support.command import Command
from tests.support.stock import Outcome, eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

WIDTH = os.cpu_count() or 1
ALL = format_set(range(3 * WIDTH))
pytestmark = pytest.mark.skipif(WIDTH < 2, reason="a part of a node needs a node with two CPUs")

Home = Callable[[str], int]


def cpus(cell: int, *own: int) -> str:
    """CPUs of a cell by their own numbers; all of them when none is given."""
    return format_set(cell * WIDTH + number for number in (own or range(WIDTH)))


def table(text: str) -> dict[str, str]:
    """`vcpupin` and `iothreadinfo`: number -> CPUs."""
    return dict(line.split() for line in text.splitlines())


def nodeset(text: str) -> str:
    found = re.search(r"numa_nodeset\s*:(.*)", text)
    assert found is not None
    return found.group(1).strip()


@pytest.fixture
def home(cluster: RealCluster) -> Home:
    """The cell that has a domain."""
    return lambda name: cluster.nodes.index(cluster.owner(name))


@pytest.fixture
def web(cluster: RealCluster, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """web("<numatune .../>", vcpu=" cpuset='1'", start=True) defines a domain of two virtual CPUs."""

    def define(inside: str = "", *, vcpu: str = "", start: bool = False, how: str = "define") -> str:
        xml = with_pins(cluster.xml("web", max_vcpus=2), inside, vcpu)
        path = tmp_path / "web.xml"
        path.write_text(xml)
        cluster.virsh(how, str(path))
        if start:
            cluster.virsh("start", "web")
        return "web"

    yield define
    cluster.remove("web")


def with_pins(xml: str, inside: str, vcpu: str = "") -> str:
    """The XML with elements behind its <vcpu>."""
    return xml.replace("<vcpu ", f"<iothreads>1</iothreads><vcpu{vcpu} ").replace(
        "</vcpu>", f"</vcpu>{inside}"
    )


def refused(cluster: RealCluster, *words: str) -> Outcome:
    outcome = cluster.virsh.run(*words)
    assert outcome.code != 0, f"virsh {' '.join(words)} succeeded"
    return outcome


def test_an_unpinned_domain_may_use_every_cpu_and_runs_on_those_of_its_node(
    cluster: RealCluster, web: Callable[..., str], home: Home
) -> None:
    web(vcpu=f" cpuset='{cpus(2, 0)}'", start=True)
    assert home("web") == 2
    virsh = cluster.virsh
    virsh("vcpupin", "web", "0", ALL)
    assert table(virsh("vcpupin", "web")) == {"0": ALL, "1": cpus(2, 0)}
    info = virsh("vcpuinfo", "web")
    assert re.search(r"CPU Affinity:\s+" + "y" * 3 * WIDTH + "$", info, re.MULTILINE)
    number = re.search(r"^CPU:\s+(\d+)", info, re.MULTILINE)
    assert number is not None
    assert int(number.group(1)) // WIDTH == 2
    assert f"{ALL} (out of {3 * WIDTH})" in virsh("vcpuinfo", "web", "--pretty")
    assert virsh("emulatorpin", "web").endswith(cpus(2, 0))
    assert table(virsh("iothreadinfo", "web")) == {"1": cpus(2, 0)}
    own = table(cluster.view("n3")("vcpupin", "web"))
    assert own == {"0": format_set(range(WIDTH)), "1": "0"}
    assert own == table(cluster.node("n3")("vcpupin", "web"))


def test_cpu_statistics_are_those_of_its_node(
    cluster: RealCluster, web: Callable[..., str], home: Home
) -> None:
    web(vcpu=f" cpuset='{cpus(1)}'", start=True)
    assert home("web") == 1
    direct = cluster.node("n2").run("cpu-stats", "web")
    if direct.code != 0:
        assert refused(cluster, "cpu-stats", "web").err == direct.err
        return
    used = re.findall(r"CPU(\d+):\n\tcpu_time\s+([\d.]+)", cluster.virsh("cpu-stats", "web"))
    assert [int(number) for number, _ in used] == list(range(3 * WIDTH))
    times = [float(seconds) for _, seconds in used]
    assert sum(times[WIDTH : 2 * WIDTH]) > 0
    assert sum(times) == sum(times[WIDTH : 2 * WIDTH])
    one = cluster.virsh("cpu-stats", "web", "--start", str(WIDTH), "--count", "1")
    assert re.findall(r"CPU\d+", one) == [f"CPU{WIDTH}"]
    assert "CPU0" in cluster.virsh("cpu-stats", "web", "--start", "0", "--count", "1")
    assert "Total:" in cluster.virsh("cpu-stats", "web", "--total")


def test_a_pin_within_its_node_stays_there_and_is_the_nodes_own_number(
    cluster: RealCluster, web: Callable[..., str], home: Home
) -> None:
    web(vcpu=f" cpuset='{cpus(1)}'", start=True)
    virsh = cluster.virsh
    virsh("vcpupin", "web", "0", cpus(1, 1))
    virsh("emulatorpin", "web", cpus(1, 0), "--live")
    virsh("iothreadpin", "web", "1", cpus(1, 1), "--live")
    virsh("vcpupin", "web", "1", cpus(1, 0), "--config")
    assert home("web") == 1
    assert table(virsh("vcpupin", "web")) == {"0": cpus(1, 1), "1": cpus(1)}
    assert table(virsh("vcpupin", "web", "--config")) == {"0": cpus(1), "1": cpus(1, 0)}
    assert virsh("emulatorpin", "web").endswith(cpus(1, 0))
    assert table(virsh("iothreadinfo", "web")) == {"1": cpus(1, 1)}
    assert table(cluster.node("n2")("vcpupin", "web"))["0"] == "1"
    assert f"CPU Affinity:   {cpus(1, 1)} (out of" in virsh("vcpuinfo", "web", "--pretty")


def test_the_event_of_a_new_pinning_has_the_numbers_of_who_sees_it(
    cluster: RealCluster, web: Callable[..., str]
) -> None:
    web(vcpu=f" cpuset='{cpus(1)}'", start=True)
    words = ("event", "--domain", "web", "--event", "tunable", "--timeout", "20")
    watching = [
        subprocess.Popen(["virsh", "-c", uri, *words], stdout=subprocess.PIPE, text=True)
        for uri in (cluster.endpoint, cluster.view_uri("n2"))
    ]
    time.sleep(1.0)  # as in EventLog: registrations have no visible sign
    cluster.virsh("vcpupin", "web", "0", cpus(1, 1))
    told, own = (process.communicate(timeout=30)[0] for process in watching)
    assert f"cputune.vcpupin0: {cpus(1, 1)}" in told
    assert "cputune.vcpupin0: 1" in own


def test_a_pin_to_another_node_moves_the_running_domain_there(
    cluster: RealCluster, web: Callable[..., str], home: Home
) -> None:
    web(vcpu=f" cpuset='{cpus(0)}'")
    virsh = cluster.virsh
    cluster.virsh("vcpupin", "web", "0", ALL, "--config")
    cluster.remove("web")
    web(start=True)
    number = virsh("domid", "web")
    target = (home("web") + 1) % 3
    virsh("vcpupin", "web", "0", cpus(target, 1))
    assert home("web") == target
    assert table(virsh("vcpupin", "web")) == {"0": cpus(target, 1), "1": ALL}
    assert virsh("domid", "web") == number
    third = (target + 1) % 3
    virsh("emulatorpin", "web", cpus(third), "--live")
    assert home("web") == third
    # Own numbers follow; whole nodes bind.
    assert table(virsh("vcpupin", "web"))["0"] == cpus(third, 1)
    error = refused(cluster, "migrate", "--live", "web", cluster.view_uri(f"n{target + 1}")).err
    assert f"its definition binds it to n{third + 1}, not to n{target + 1}" in error
    assert home("web") == third


def test_a_pin_of_the_definition_moves_the_home_at_the_next_start(
    cluster: RealCluster, web: Callable[..., str], home: Home
) -> None:
    web(start=True)
    virsh = cluster.virsh
    before = home("web")
    target = (before + 1) % 3
    virsh("vcpupin", "web", "1", cpus(target, 1), "--config")
    assert table(virsh("vcpupin", "web", "--config")) == {"0": ALL, "1": cpus(target, 1)}
    assert table(virsh("vcpupin", "web", "--live")) == {"0": ALL, "1": ALL}
    assert f"<vcpupin vcpu='1' cpuset='{cpus(target, 1)}'/>" in virsh("dumpxml", "--inactive", "web")
    assert home("web") == before
    virsh("destroy", "web")
    virsh("start", "web")
    assert home("web") == target
    for flag in ("--live", "--config"):
        assert table(virsh("vcpupin", "web", flag)) == {"0": ALL, "1": cpus(target, 1)}


def test_numatune_moves_a_running_domain_to_the_node_it_names(
    cluster: RealCluster, web: Callable[..., str], home: Home
) -> None:
    web(start=True)
    virsh = cluster.virsh
    assert nodeset(virsh("numatune", "web")) == ""
    before = home("web")
    for target in ((before + 1) % 3, before):
        virsh("numatune", "web", "--nodeset", str(target), "--live")
        assert home("web") == target
        assert nodeset(virsh("numatune", "web")) == str(target)
        assert nodeset(virsh("numatune", "web", "--config")) == ""
    assert f"<memory mode='strict' nodeset='{before}'/>" in virsh("dumpxml", "web")
    assert cluster.view(f"n{before + 1}")("dumpxml", "web").count("nodeset='0'") == 1
    virsh("numatune", "web", "--nodeset", "0-2", "--live")
    assert nodeset(virsh("numatune", "web")) == "0-2"
    assert home("web") == before


def test_numatune_of_the_definition_binds_the_next_start_and_placement_says_so(
    cluster: RealCluster, web: Callable[..., str], home: Home
) -> None:
    web(start=True)
    virsh = cluster.virsh
    before = home("web")
    others = [cell for cell in range(3) if cell != before]
    virsh("numatune", "web", "--nodeset", format_set(others), "--mode", "strict", "--config")
    assert home("web") == before
    assert nodeset(virsh("numatune", "web", "--config")) == format_set(others)
    virsh("destroy", "web")
    virsh("start", "web")
    assert home("web") in others
    told = Command(cluster.state / "front" / "clusterhost.toml").json("placement", "explain", "web")
    reasons = {row["node"]: row["text"] for row in told["reasons"]}
    assert "the definition of web binds it to cells" in reasons[f"n{before + 1}"]
    assert "bound to cells" in reasons[f"n{home('web') + 1}"]


def test_a_definition_with_pinning_is_shown_as_it_was_written_and_edit_changes_nothing(
    cluster: RealCluster, web: Callable[..., str], home: Home
) -> None:
    text = (
        f"<cputune><vcpupin vcpu='0' cpuset='{cpus(2)}'/><vcpupin vcpu='1' cpuset='{cpus(2, 1)}'/>"
        f"<emulatorpin cpuset='{ALL}'/></cputune>"
        "<numatune><memory mode='strict' nodeset='1-2'/></numatune>"
    )
    both = format_set([*range(WIDTH, 3 * WIDTH)])
    web(text, vcpu=f" cpuset='{both}'")
    assert home("web") == 2
    virsh = cluster.virsh
    shown = virsh("dumpxml", "web")
    for expected in (
        f"cpuset='{both}' current='1'>2</vcpu>",
        f"<vcpupin vcpu='0' cpuset='{cpus(2)}'/>",
        f"<vcpupin vcpu='1' cpuset='{cpus(2, 1)}'/>",
        f"<emulatorpin cpuset='{ALL}'/>",
        "<memory mode='strict' nodeset='1-2'/>",
    ):
        assert expected in shown
    assert "urn:clusterhost" not in shown
    own = cluster.node("n3")("dumpxml", "web")
    virsh("edit", "web")
    assert cluster.node("n3")("dumpxml", "web") == own
    virsh_edit(cluster, "s/1-2/2/")
    assert cluster.node("n3")("dumpxml", "web") == own.replace(
        'of="numatune" cells="1-2"', 'of="numatune" cells="2"'
    )
    assert virsh("dumpxml", "web") == shown.replace("'1-2'", "'2'")
    assert cluster.view("n3")("dumpxml", "web") == cluster.node("n3")("dumpxml", "web")


def virsh_edit(cluster: RealCluster, expression: str) -> None:
    """`virsh edit` with sed for an editor."""
    old = os.environ.get("EDITOR")
    os.environ["EDITOR"] = f"sed -i '{expression}'"
    try:
        cluster.virsh("edit", "web")
    finally:
        del os.environ["EDITOR"]
        if old is not None:
            os.environ["EDITOR"] = old


def test_a_transient_domain_starts_on_the_node_whose_cpus_it_names(
    cluster: RealCluster, web: Callable[..., str], home: Home
) -> None:
    web(f"<cputune><vcpupin vcpu='0' cpuset='{cpus(1, 1)}'/></cputune>", how="create")
    assert home("web") == 1
    assert table(cluster.virsh("vcpupin", "web"))["0"] == cpus(1, 1)


def test_own_numbers_go_with_a_migration_and_a_drain_says_what_holds_a_bound_domain(
    cluster: RealCluster, web: Callable[..., str], home: Home
) -> None:
    web(f"<cputune><vcpupin vcpu='0' cpuset='{cpus(0, 1)}'/></cputune>", start=True)
    assert home("web") == 0
    virsh = cluster.virsh
    virsh("migrate", "--live", "web", cluster.view_uri("n3"))
    assert home("web") == 2
    for flag in ("--live", "--config"):
        assert table(virsh("vcpupin", "web", flag))["0"] == cpus(2, 1)
    virsh("migrate", "--live", "--p2p", "web", cluster.view_uri("n2"))
    assert table(virsh("vcpupin", "web"))["0"] == cpus(1, 1)
    virsh("numatune", "web", "--nodeset", "1", "--live", "--config")
    for words in ((), ("--p2p",)):
        error = refused(cluster, "migrate", "--live", *words, "web", cluster.view_uri("n1")).err
        assert "its definition binds it to n2, not to n1" in error
    command = Command(cluster.state / "front" / "clusterhost.toml")
    code, error = command.fails("node", "drain", "n2")
    command("node", "enable", "n2")
    assert code != 0
    assert "binds it to cell 1" in error
    assert home("web") == 1


@pytest.mark.parametrize("words", [(), ("--p2p",)])
def test_xml_given_for_a_migration_has_the_numbers_that_the_client_sees(
    cluster: RealCluster, web: Callable[..., str], home: Home, tmp_path: Path, words: tuple[str, ...]
) -> None:
    web(f"<cputune><vcpupin vcpu='0' cpuset='{cpus(1, 1)}'/></cputune>", start=True)
    virsh = cluster.virsh
    path = tmp_path / "moved.xml"
    path.write_text(virsh("dumpxml", "web", "--migratable"))
    virsh("migrate", "--live", *words, "web", cluster.view_uri("n3"), "--xml", str(path))
    assert home("web") == 2
    assert table(virsh("vcpupin", "web"))["0"] == cpus(2, 1)
    path.write_text(virsh("dumpxml", "web", "--migratable").replace(f"'{cpus(2, 1)}'", f"'{cpus(0, 0)}'"))
    virsh("migrate", "--live", *words, "web", cluster.view_uri("n1"), "--xml", str(path))
    assert home("web") == 0
    assert table(virsh("vcpupin", "web"))["0"] == cpus(0, 0)


@pytest.mark.parametrize("how", ["--live", "--config"])
def test_parts_of_several_nodes_are_refused_with_the_borders(
    cluster: RealCluster, web: Callable[..., str], how: str
) -> None:
    web(start=True)
    asked = format_set([WIDTH - 1, WIDTH])
    for words in (
        ("vcpupin", "web", "0", asked),
        ("emulatorpin", "web", asked),
        ("iothreadpin", "web", "1", asked),
    ):
        error = refused(cluster, *words, how).err
        assert f"invalid argument: CPUs {asked} are parts of several nodes" in error
        assert f"n1 {cpus(0)}, n2 {cpus(1)}, n3 {cpus(2)}" in error


def test_what_a_node_refuses_is_refused_in_its_words_and_nothing_moves(
    cluster: RealCluster, web: Callable[..., str], home: Home
) -> None:
    web(start=True)
    before = home("web")
    other = cpus((before + 1) % 3, 1)
    for words, text in (
        (
            ("vcpupin", "web", "7", other, "--live"),
            "invalid argument: vcpu 7 is out of range of live cpu count",
        ),
        (("iothreadpin", "web", "7", other, "--live"), "invalid argument: iothread 7 not found"),
        (("numatune", "web", "--nodeset", "9", "--live"), "invalid argument: NUMA node 9 is unavailable"),
        (("numatune", "web", "--nodeset", "x", "--live"), "invalid argument: Failed to parse bitmap 'x'"),
        (("numatune", "web", "--mode", "7", "--live"), "invalid argument: unsupported numatune mode: '7'"),
    ):
        assert text in refused(cluster, *words).err
    assert home("web") == before
    assert table(cluster.virsh("vcpupin", "web")) == {"0": ALL, "1": ALL}


def test_empty_and_far_maps_get_libvirts_code(cluster: RealCluster, web: Callable[..., str]) -> None:
    web(start=True)
    connection = libvirt.open(cluster.endpoint)
    try:
        domain = connection.lookupByName("web")
        for flags in (libvirt.VIR_DOMAIN_AFFECT_LIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG):
            for cpumap in ((False,) * 3 * WIDTH, (False,) * 3 * WIDTH + (True,) * 2):
                with pytest.raises(libvirt.libvirtError, match="Empty cpu list") as caught:
                    domain.pinVcpuFlags(0, cpumap, flags)
                assert caught.value.get_error_code() == libvirt.VIR_ERR_INVALID_ARG
        with pytest.raises(libvirt.libvirtError, match="unsupported flags"):
            domain.pinVcpuFlags(0, (True,) * 3 * WIDTH, 64)
        assert domain.vcpuPinInfo(libvirt.VIR_DOMAIN_AFFECT_LIVE)[0] == (True,) * 3 * WIDTH
        info, maps = domain.vcpus()
        assert maps == [(True,) * 3 * WIDTH]
        assert 0 <= info[0][3] < 3 * WIDTH
    finally:
        connection.close()


def test_xml_that_no_single_node_can_honour_is_refused(cluster: RealCluster, tmp_path: Path) -> None:
    path = tmp_path / "bad.xml"
    pins = f"<cputune><vcpupin vcpu='0' cpuset='{cpus(0, 1)}'/><vcpupin vcpu='1' cpuset='{cpus(1, 1)}'/></cputune>"
    for inside, words in (
        (pins, "unsupported configuration: the XML names CPUs of n1, n2"),
        ("<numatune><memory mode='strict' nodeset='0,^0'/></numatune>", "Invalid value of 'nodeset': 0,^0"),
    ):
        path.write_text(with_pins(cluster.xml("bad", max_vcpus=2), inside))
        for command in ("define", "create"):
            assert words in refused(cluster, command, str(path)).err
    assert "bad" not in cluster.virsh.names("--all")


def test_a_read_only_client_sees_pinning_and_sets_none(
    cluster: RealCluster, web: Callable[..., str], home: Home
) -> None:
    web(f"<cputune><vcpupin vcpu='0' cpuset='{cpus(1, 1)}'/></cputune>", start=True)
    connection = libvirt.openReadOnly(cluster.endpoint)
    try:
        domain = connection.lookupByName("web")
        found = domain.vcpuPinInfo(libvirt.VIR_DOMAIN_AFFECT_LIVE)[0]
        assert [number for number, bit in enumerate(found) if bit] == [WIDTH + 1]
        with pytest.raises(libvirt.libvirtError, match="read only access"):
            domain.pinVcpu(0, (True,) * 3 * WIDTH)
    finally:
        connection.close()
    eventually(lambda: home("web") == 1, 5, "it stays")
