"""Placement reads the memory of a definition as libvirt's QEMU driver does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from lxml import etree

from placement.ask import memory_kib
from tests.real.conftest import RealCluster

pytestmark = pytest.mark.real

MEMORIES = (
    "<memory unit='GiB'>4</memory><vcpu>2</vcpu>",
    """<memory unit='GiB'>4</memory><vcpu>2</vcpu><cpu><numa>
       <cell id='0' cpus='0' memory='512' unit='MiB'/>
       <cell id='1' cpus='1' memory='1048576'/></numa></cpu>""",
    """<maxMemory slots='4' unit='GiB'>8</maxMemory><memory unit='GiB'>4</memory><vcpu>1</vcpu>
       <cpu><numa><cell id='0' cpus='0' memory='1' unit='GiB'/></numa></cpu>
       <devices><memory model='dimm'><target><size unit='MiB'>256</size><node>0</node></target></memory>
       </devices>""",
)


def test_the_memory_of_a_domain_is_what_libvirt_calls_its_max_memory(
    cluster: RealCluster, tmp_path: Path
) -> None:
    node, theirs = cluster.node("n1"), []
    for number, inner in enumerate(MEMORIES):
        name = f"memory{number}"
        head = f"<name>{name}</name><os><type arch='x86_64' machine='q35'>hvm</type></os>"
        node.define(f"<domain type='qemu'>{head}{inner}</domain>", tmp_path)
        try:
            found = re.search(r"Max memory: +(\d+) KiB", node("dominfo", name))
            assert found is not None
            theirs.append(int(found[1]))
        finally:
            node("undefine", name)
    assert [memory_kib(etree.fromstring(f"<domain>{inner}</domain>")) for inner in MEMORIES] == theirs
