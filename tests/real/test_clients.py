"""Shown by 9: libvirt-python and how-to scripts run unchanged."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import libvirt
import pytest

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

Make = Callable[..., str]


@pytest.fixture
def connection(cluster: RealCluster) -> Iterator[libvirt.virConnect]:
    """libvirt-python at the endpoint."""
    libvirt.registerErrorHandler(lambda *_: None, None)
    opened = libvirt.open(cluster.endpoint)
    yield opened
    opened.close()


def test_python_lists_looks_up_and_reads(connection: libvirt.virConnect, make: Make) -> None:
    name = make("snake", start=True)
    assert connection.getType() == "QEMU"
    assert [domain.name() for domain in connection.listAllDomains()] == [name]
    domain = connection.lookupByName(name)
    assert connection.lookupByID(domain.ID()).UUIDString() == domain.UUIDString()
    assert domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING
    assert domain.info()[0] == libvirt.VIR_DOMAIN_RUNNING
    assert [row[0].name() for row in connection.getAllDomainStats()] == [name]


def test_a_missing_domain_has_libvirts_code(connection: libvirt.virConnect) -> None:
    with pytest.raises(libvirt.libvirtError) as caught:
        connection.lookupByName("nobody")
    assert caught.value.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN
    assert caught.value.get_error_domain() == libvirt.VIR_FROM_QEMU


def test_a_read_only_connection_may_look_but_not_touch(cluster: RealCluster, make: Make) -> None:
    name = make("glass", start=True)
    connection = libvirt.openReadOnly(cluster.endpoint)
    try:
        domain = connection.lookupByName(name)
        assert domain.XMLDesc()
        with pytest.raises(libvirt.libvirtError) as caught:
            domain.suspend()
        assert caught.value.get_error_code() == libvirt.VIR_ERR_OPERATION_DENIED
    finally:
        connection.close()


def test_a_how_to_script_runs_unchanged(cluster: RealCluster, tmp_path: Path) -> None:
    xml = tmp_path / "vm.xml"
    xml.write_text(cluster.xml("howto"))
    script = """set -e
virsh define vm.xml
virsh start howto
virsh list --all | grep -q 'howto *running'
test "$(virsh domstate howto)" = running
for vm in $(virsh list --name); do virsh dominfo $vm | grep -q '^State: *running'; done
virsh destroy howto
virsh undefine howto
"""
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={
            "PATH": "/usr/bin:/bin",
            "LIBVIRT_DEFAULT_URI": cluster.endpoint,
            "HOME": str(tmp_path),
            "LC_ALL": "C",
        },
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
