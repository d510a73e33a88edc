"""Checks of a node: does its libvirtd answer, and can the cluster use it.  Changes nothing."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator

from clusterhost.agent.errors import LibvirtRefused, Unavailable
from clusterhost.agent.rpc import Rpc
from clusterhost.agent.transport import connect, target
from clusterhost.doctor.finding import Finding, bad, good, warning
from clusterhost.doctor.machine import check_machine
from compat.libvirt.messages import RemoteConnectListAllDomainsArgs
from compat.libvirt.uri import UriError

SLOW = 1.0
"""Seconds that libvirtd may take to be connected to."""

_AUTOSTART = 1 << 10  # virConnectListAllDomainsFlags: domains that their libvirtd starts by itself


async def check_node(uri: str, migration_address: str = "", *, local: bool = True) -> list[Finding]:
    """All checks; local: the node is this machine, so that more than its libvirtd can be looked at."""
    findings = [finding async for finding in _libvirtd(uri)]
    return [*findings, *check_machine(migration_address)] if local else findings


async def _libvirtd(uri: str) -> AsyncIterator[Finding]:
    began = time.monotonic()
    try:
        rpc = await connect(target(uri))
    except (LibvirtRefused, UriError) as error:
        yield bad("libvirtd", f"{uri}: {error}", "check the URI, and who may use libvirtd's socket")
        return
    except Unavailable as error:
        mend = "systemctl enable --now libvirtd.socket (or virtqemud.socket), then look at its log"
        yield bad("libvirtd", f"{uri}: {error}", mend)
        return
    try:
        yield _speed(time.monotonic() - began)
        yield await _version(rpc)
        async for finding in _inside(rpc):
            yield finding
    except (LibvirtRefused, Unavailable) as error:
        yield bad("libvirtd", f"it stopped answering: {error}", "look at libvirtd's log")
    finally:
        rpc.close()


def _speed(seconds: float) -> Finding:
    if seconds > SLOW:
        return warning("libvirtd", f"it took {seconds:.1f} s to answer", "look at what keeps libvirtd busy")
    return good("libvirtd", f"answers in {seconds * 1000:.0f} ms")


async def _version(rpc: Rpc) -> Finding:
    number = (await rpc.ask("remote:CONNECT_GET_LIB_VERSION")).lib_ver
    text = f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
    if number < 6_000_000:
        return bad("version", f"libvirt {text}", "6.0.0 or newer is needed")
    return good("version", f"libvirt {text}")


async def _inside(rpc: Rpc) -> AsyncIterator[Finding]:
    hostname = (await rpc.ask("remote:CONNECT_GET_HOSTNAME")).hostname
    yield _named(hostname)
    capabilities = (await rpc.ask("remote:CONNECT_GET_CAPABILITIES")).capabilities
    yield _hypervisor(capabilities)
    flagged = await rpc.ask("remote:CONNECT_LIST_ALL_DOMAINS", RemoteConnectListAllDomainsArgs(1, _AUTOSTART))
    if flagged.domains:
        names = ", ".join(domain.name for domain in flagged.domains)
        mend = "nothing: the cluster takes autostart over when the node joins"
        yield warning("autostart", f"libvirtd starts {names} by itself", mend)
    else:
        yield good("autostart", "libvirtd starts no domain by itself")


def _named(hostname: str) -> Finding:
    if hostname.split(".")[0] in ("", "localhost"):
        return bad("hostname", f"libvirtd calls its machine '{hostname}'", "hostnamectl set-hostname NAME")
    return good("hostname", hostname)


def _hypervisor(capabilities: str) -> Finding:
    kinds = {found.get("type", "") for found in ET.fromstring(capabilities).iter("domain")}
    usable = sorted(kinds & {"kvm", "qemu"})
    if not usable:
        mend = "install QEMU (qemu-system-x86) and restart libvirtd"
        return bad("hypervisor", "libvirtd offers neither kvm nor qemu domains", mend)
    return good("hypervisor", f"domains of type {' and '.join(usable)}")
