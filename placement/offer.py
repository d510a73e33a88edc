"""What a node offers, from its capabilities XML and the figures of its domains.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lxml import etree

from compat import xmldoc
from placement.values import CpuModels, Offer

_RESERVED_MODES = ("host-passthrough", "host-model", "maximum")


@dataclass(frozen=True, slots=True)
class Guests:
    """What a node can run.  Parse once and keep: it changes only when the node does."""

    arches: frozenset[str] = frozenset()
    machines: frozenset[str] = frozenset()
    domain_types: frozenset[str] = frozenset()
    emulators: frozenset[str] = frozenset()
    cpu_models: Mapping[str, CpuModels] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Load:
    """What is granted on a node already.  granted_kib: sum of the most memory its active domains may take."""

    granted_kib: int = 0
    vcpus: int = 0
    running: int = 0
    homes: int = 0


def guests(capabilities: str, domain_capabilities: Iterable[str] = ()) -> Guests:
    """From virConnectGetCapabilities, and virConnectGetDomainCapabilities of each domain type; ValueError when one
    is not such a document.

    Machines are there under both names: `q35` and the canonical `pc-q35-7.2`."""
    root = _root(capabilities, "capabilities")
    machines = root.findall("guest/arch/machine") + root.findall("guest/arch/domain/machine")
    return Guests(
        arches=_set(arch.get("name") for arch in root.findall("guest/arch")),
        machines=_set([name for machine in machines for name in (machine.text, machine.get("canonical"))]),
        domain_types=_set(domain.get("type") for domain in root.findall("guest/arch/domain")),
        emulators=_set(
            emulator.text
            for path in ("guest/arch/emulator", "guest/arch/domain/emulator")
            for emulator in root.findall(path)
        ),
        cpu_models=dict(cpu_models(document) for document in domain_capabilities),
    )


def cpu_models(domain_capabilities: str) -> tuple[str, CpuModels]:
    """The domain type of a virConnectGetDomainCapabilities document, and its CPU models; ValueError."""
    root = _root(domain_capabilities, "domainCapabilities")
    modes = root.findall("cpu/mode[@supported='yes']")
    models = [model for mode in modes if mode.get("name") == "custom" for model in mode.findall("model")]
    host = [mode.get("name") for mode in modes if mode.get("name") in _RESERVED_MODES]
    found = CpuModels(
        arch=(root.findtext("arch") or "").strip(),
        known=_set([*(model.text for model in models), *host]),
        usable=_set([*(model.text for model in models if model.get("usable") != "no"), *host]),
    )
    return (root.findtext("domain") or "").strip(), found


def offer(
    node: str,
    guests: Guests,
    load: Load,
    *,
    memory_kib: int,
    cpus: int,
    reserve_kib: int = 0,
    open: bool = True,
    why_not: str = "",
) -> Offer:
    """The offer of a node with this much memory and this many CPUs."""
    return Offer(
        node=node,
        open=open,
        why_not=why_not,
        memory_kib=memory_kib,
        free_kib=memory_kib - reserve_kib - load.granted_kib,
        cpus=cpus,
        vcpus_granted=load.vcpus,
        arches=guests.arches,
        machines=guests.machines,
        domain_types=guests.domain_types,
        emulators=guests.emulators,
        cpu_models=guests.cpu_models,
        running=load.running,
        homes=load.homes,
    )


def _root(xml: str, tag: str) -> etree._Element:
    document = xmldoc.parse(xml)
    if document.tag != tag:
        raise ValueError(f"<{document.tag}> was found, allowed is <{tag}>")
    return document.root


def _set(values: Iterable[str | None]) -> frozenset[str]:
    return frozenset(value.strip() for value in values if value)
