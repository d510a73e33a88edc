"""What a definition asks and a node offers; sizes are compared with what libvirt itself makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from placement.ask import BadRequirement, requirements
from placement.offer import Guests, Load, guests, offer
from placement.size import BadSize, kib
from placement.values import Ask, CpuModels

CAPABILITIES = """
<capabilities>
  <host><cpu><arch>x86_64</arch><model>EPYC</model></cpu></host>
  <guest><os_type>hvm</os_type>
    <arch name='i686'><wordsize>32</wordsize><emulator>/usr/bin/qemu-system-i386</emulator>
      <machine canonical='pc-i440fx-7.2' maxCpus='255'>pc</machine><domain type='qemu'/></arch></guest>
  <guest><os_type>hvm</os_type>
    <arch name='x86_64'><wordsize>64</wordsize><emulator>/usr/bin/qemu-system-x86_64</emulator>
      <machine canonical='pc-q35-7.2' maxCpus='288'>q35</machine>
      <machine maxCpus='255'>pc-i440fx-6.2</machine>
      <domain type='qemu'/>
      <domain type='kvm'><emulator>/usr/bin/kvm</emulator><machine>only-kvm</machine></domain></arch></guest>
</capabilities>"""

DOMAIN_CAPABILITIES = """
<domainCapabilities><domain>kvm</domain><arch>x86_64</arch><cpu>
  <mode name='host-passthrough' supported='no'/>
  <mode name='maximum' supported='yes'/>
  <mode name='host-model' supported='yes'><model fallback='forbid'>EPYC</model></mode>
  <mode name='custom' supported='yes'>
    <model usable='yes'>EPYC</model><model usable='no'>Skylake-Server</model>
    <model usable='unknown'>odd</model>
  </mode></cpu></domainCapabilities>"""


def ask_of(inner: str, **more: object) -> Ask:
    xml = f"<domain type='kvm'><name>web</name>{inner}</domain>"
    return requirements(etree.fromstring(xml), **more)  # type: ignore[arg-type]


def test_everything_a_definition_asks_is_read() -> None:
    ask = ask_of(
        """<memory unit='GiB'>2</memory><currentMemory>1</currentMemory>
        <vcpu placement='static' current='2'>8</vcpu>
        <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
        <cpu mode='custom' match='exact'><model fallback='forbid'> EPYC </model></cpu>
        <devices><emulator>/usr/bin/qemu-system-x86_64</emulator></devices>""",
        home="n1",
        only=frozenset({"n1", "n2"}),
        avoid=frozenset({"n3"}),
    )
    assert ask == Ask(
        name="web",
        memory_kib=2 * 1024 * 1024,
        vcpus=2,
        arch="x86_64",
        machine="pc-q35-7.2",
        domain_type="kvm",
        cpu_model="EPYC",
        cpu_checked=True,
        emulator="/usr/bin/qemu-system-x86_64",
        home="n1",
        only=frozenset({"n1", "n2"}),
        avoid=frozenset({"n3"}),
    )


def test_what_a_definition_leaves_open_is_left_open() -> None:
    assert ask_of("<memory>1024</memory>") == Ask("web", memory_kib=1024, vcpus=1, domain_type="kvm")


@pytest.mark.parametrize(
    ("cpu", "model", "checked", "fallback"),
    [
        ("", None, True, False),
        ("<cpu/>", None, True, False),
        ("<cpu mode='host-model'/>", "host-model", True, False),
        ("<cpu mode='host-passthrough' check='none'/>", "host-passthrough", True, False),
        ("<cpu mode='maximum'/>", "maximum", True, False),
        ("<cpu mode='custom'><model>EPYC</model></cpu>", "EPYC", True, True),
        ("<cpu mode='custom'><model fallback='allow'>EPYC</model></cpu>", "EPYC", True, True),
        ("<cpu><model fallback='forbid'>EPYC</model></cpu>", "EPYC", True, False),
        ("<cpu check='none'><model fallback='forbid'>qemu64</model></cpu>", "qemu64", False, False),
        ("<cpu check='full'><model fallback='allow'>qemu64</model></cpu>", "qemu64", True, True),
        ("<cpu><model>EPYC</model><feature name='x' policy='disable'/></cpu>", "EPYC", False, True),
        ("<cpu><model>EPYC</model><feature name='x' policy='require'/></cpu>", "EPYC", True, True),
        ("<cpu mode='custom'><topology sockets='1' cores='2' threads='1'/></cpu>", None, True, False),
    ],
)
def test_a_cpu_model_binds_as_libvirt_checks_it(
    cpu: str, model: str | None, checked: bool, fallback: bool
) -> None:
    found = ask_of(cpu)
    assert (found.cpu_model, found.cpu_checked, found.cpu_fallback) == (model, checked, fallback)


def test_an_emulated_guest_is_not_checked_unless_it_says_so() -> None:
    for check, checked in (("", False), (" check='partial'", True)):
        xml = f"<domain type='qemu'><name>web</name><cpu{check}><model>EPYC</model></cpu></domain>"
        assert requirements(etree.fromstring(xml)).cpu_checked is checked


@pytest.mark.parametrize(
    ("inner", "text"),
    [
        ("<memory unit='parsec'>1</memory>", "<memory>: 'parsec' is not a unit of size"),
        ("<memory>-1</memory>", "<memory>: '-1' is not a size"),
        ("<memory>much</memory>", "<memory>: 'much' is not a size"),
        ("<memory unit='EiB'>16</memory>", "<memory>: 16 EiB is too large"),
        ("<vcpu>0</vcpu>", "<vcpu> is '0', allowed are whole numbers from 1"),
        ("<vcpu>two</vcpu>", "<vcpu> is 'two'"),
        ("<cpu><numa><cell memory='x'/></numa></cpu>", "<cpu/numa/cell>: 'x' is not a size"),
    ],
)
def test_a_figure_that_cannot_be_read_is_refused_with_its_element(inner: str, text: str) -> None:
    with pytest.raises(BadRequirement) as refused:
        ask_of(inner)
    assert text in str(refused.value)


@given(st.text(max_size=8), st.none() | st.text(max_size=6))
def test_any_text_is_a_size_or_refused(number: str, unit: str | None) -> None:
    try:
        size = kib(number, unit)
    except BadSize as refused:
        size = len(str(refused))
    assert 0 <= size <= 1 << 54


UNITS = [
    None,
    "",
    "b",
    "B",
    "bytes",
    "Bytes",
    "k",
    "K",
    "KB",
    "kb",
    "KiB",
    "kib",
    "M",
    "MB",
    "MiB",
    "g",
    "GB",
    "GiB",
]
UNITS += ["T", "TB", "TiB", "x", "KBs", "Kib", "kIb", "iB", "byte", "MMiB"]


def libvirt_memory(inner: str) -> int | None:
    """KiB that libvirt makes of it ("Max memory"), None when it refuses the definition."""
    libvirt = pytest.importorskip("libvirt")
    libvirt.registerErrorHandler(lambda *_: None, None)
    connection = libvirt.open("test:///default")
    try:
        domain = connection.defineXML(
            f"<domain type='test'><name>web</name>{inner}<os><type>hvm</type></os></domain>"
        )
        return int(domain.info()[1])
    except libvirt.libvirtError:
        return None
    finally:
        connection.close()


@pytest.mark.parametrize("number", ["1", "999", "1000", "1025", "4000000", "0"])
def test_a_size_means_what_libvirt_takes_it_for(number: str) -> None:
    for unit in UNITS:
        attribute = "" if unit is None else f" unit='{unit}'"
        theirs = libvirt_memory(f"<memory{attribute}>{number}</memory>")
        try:
            ours: int | None = kib(number, unit)
        except BadSize:
            ours = None
        # libvirt also refuses no memory at all, and more than its own type holds: placement need not.
        if theirs is not None or unit in ("x", "KBs", "iB", "MMiB"):
            assert ours == theirs, f"{number} {unit}"


def test_capabilities_become_what_a_node_can_run() -> None:
    found = guests(CAPABILITIES, [DOMAIN_CAPABILITIES])
    assert found == Guests(
        arches=frozenset({"i686", "x86_64"}),
        machines=frozenset({"pc", "pc-i440fx-7.2", "q35", "pc-q35-7.2", "pc-i440fx-6.2", "only-kvm"}),
        domain_types=frozenset({"qemu", "kvm"}),
        emulators=frozenset({"/usr/bin/qemu-system-i386", "/usr/bin/qemu-system-x86_64", "/usr/bin/kvm"}),
        cpu_models={
            "kvm": CpuModels(
                arch="x86_64",
                known=frozenset({"EPYC", "Skylake-Server", "odd", "host-model", "maximum"}),
                usable=frozenset({"EPYC", "odd", "host-model", "maximum"}),
            )
        },
    )


def test_an_offer_holds_back_the_reserve_and_what_is_granted() -> None:
    made = offer(
        "n1",
        guests(CAPABILITIES),
        Load(granted_kib=3000, vcpus=4, running=2, homes=1),
        memory_kib=10_000,
        cpus=8,
        reserve_kib=1000,
        open=False,
        why_not="disabled",
    )
    assert (made.free_kib, made.vcpus_granted, made.running, made.homes) == (6000, 4, 2, 1)
    assert (made.open, made.why_not) == (False, "disabled")


@pytest.mark.parametrize(
    "xml", ["", "<capabilities", "<domain/>", "<!DOCTYPE a [<!ENTITY b 'c'>]><capabilities/>"]
)
def test_what_is_not_capabilities_is_refused(xml: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        guests(xml)


def test_the_capabilities_of_a_real_driver_are_read() -> None:
    libvirt = pytest.importorskip("libvirt")
    connection = libvirt.open("test:///default")
    try:
        found = guests(connection.getCapabilities())
    finally:
        connection.close()
    assert (found.arches, found.domain_types) == ({"i686"}, {"test"})


def test_captured_capabilities_of_a_qemu_node_are_read() -> None:
    captured = sorted((Path(__file__).parent / "data").glob("**/*capabilities*.xml"))
    real = [path for path in captured if "<capabilities>" in path.read_text()]
    if not real:
        pytest.skip("no capabilities of a node are among the test data")
    for path in real:
        found = guests(path.read_text())
        assert "x86_64" in found.arches, path.name
        assert "q35" in found.machines, path.name
