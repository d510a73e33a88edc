"""What a domain's definition asks of a node.  Reads a parsed tree, keeps nothing.  Pure."""

from __future__ import annotations

from lxml import etree

from placement.size import BadSize, kib
from placement.values import Ask

_TAKEN_AWAY = ("disable", "optional", "forbid")
_HOST_MODES = ("host-model", "host-passthrough", "maximum")


class BadRequirement(ValueError):
    """The definition's figures cannot be read; the text names the element."""


def requirements(
    domain: etree._Element,
    *,
    home: str | None = None,
    only: frozenset[str] | None = None,
    avoid: frozenset[str] = frozenset(),
) -> Ask:
    """The ask of a <domain> element (the root of a tree, or found inside one); BadRequirement.

    What the definition leaves open (architecture, machine, emulator) any node may fill in."""
    return Ask(
        name=_text(domain, "name"),
        memory_kib=memory_kib(domain),
        vcpus=vcpus(domain),
        arch=_attribute(domain, "os/type", "arch"),
        machine=_attribute(domain, "os/type", "machine"),
        domain_type=domain.get("type", ""),
        cpu_model=cpu_model(domain),
        cpu_checked=cpu_checked(domain),
        cpu_fallback=cpu_fallback(domain),
        emulator=_text(domain, "devices/emulator") or None,
        home=home,
        only=only,
        avoid=avoid,
    )


def memory_kib(domain: etree._Element) -> int:
    """Most memory the guest can have without hot-plug, in KiB: libvirt's "Max memory".

    With NUMA cells libvirt takes the sum of the cells and of the plugged modules and ignores <memory>."""
    cells = domain.findall("cpu/numa/cell")
    if any(cell.get("memory") for cell in cells):
        plugged = domain.findall("devices/memory/target/size")
        return sum(_kib(cell.get("memory", "0"), cell, "cpu/numa/cell") for cell in cells) + sum(
            _kib(size.text, size, "devices/memory/target/size") for size in plugged
        )
    memory = domain.find("memory")
    return 0 if memory is None else _kib(memory.text, memory, "memory")


def vcpus(domain: etree._Element) -> int:
    """Vcpus it starts with: `current` of <vcpu>, else its number, else 1."""
    vcpu = domain.find("vcpu")
    if vcpu is None:
        return 1
    text = (vcpu.get("current") or vcpu.text or "1").strip()
    if not (text.isascii() and text.isdigit()) or int(text) == 0:
        raise BadRequirement(f"<vcpu> is '{text}', allowed are whole numbers from 1")
    return int(text)


def cpu_model(domain: etree._Element) -> str | None:
    """The model it names, a host mode, or None when the hypervisor's default will do."""
    cpu = domain.find("cpu")
    if cpu is None:
        return None
    mode = cpu.get("mode", "custom")
    if mode in _HOST_MODES:
        return mode
    return (cpu.findtext("model") or "").strip() or None


def cpu_checked(domain: etree._Element) -> bool:
    """libvirt looks whether the CPU can be run before it starts one: always in the host modes, else as `check` says,
    which it fills in as partial for KVM and as none for an emulated guest.

    A definition that takes features away from its model is left to libvirt: the rest may be possible."""
    cpu = domain.find("cpu")
    if cpu is None or cpu.get("mode", "custom") in _HOST_MODES:
        return True
    if any(feature.get("policy") in _TAKEN_AWAY for feature in cpu.findall("feature")):
        return False
    return cpu.get("check", "partial" if domain.get("type") == "kvm" else "none") != "none"


def cpu_fallback(domain: etree._Element) -> bool:
    """libvirt may put the nearest model in place of one that the hypervisor does not know."""
    cpu = domain.find("cpu")
    if cpu is None or cpu.get("mode", "custom") in _HOST_MODES:
        return False
    model = cpu.find("model")
    return model is not None and model.get("fallback", "allow") != "forbid"


def _kib(number: str | None, element: etree._Element, where: str) -> int:
    try:
        return kib(number or "", element.get("unit"))
    except BadSize as error:
        raise BadRequirement(f"<{where}>: {error}") from None


def _text(domain: etree._Element, path: str) -> str:
    return (domain.findtext(path) or "").strip()


def _attribute(domain: etree._Element, path: str, name: str) -> str:
    found = domain.find(path)
    return "" if found is None else found.get(name, "")
