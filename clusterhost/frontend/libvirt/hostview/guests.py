"""The `<guest>` elements of capabilities that every node can honour.  Pure."""

from __future__ import annotations

from collections.abc import Sequence

from clusterhost.frontend.libvirt.hostview.trees import (
    Element,
    bare,
    clone,
    common,
    kept,
    make,
    number_of,
    tag_of,
    text_of,
)


def merge(documents: Sequence[Sequence[Element]]) -> list[Element]:
    """documents: the `<guest>` elements of each node.  Intersection by OS type and architecture."""
    merged = (_guest(found) for found in common(documents, _guest_key))
    return [guest for guest in merged if guest is not None]


def _guest_key(guest: Element) -> tuple[str, str]:
    arch = guest.find("arch")
    return text_of(guest, "os_type"), "" if arch is None else arch.get("name") or ""


def _guest(guests: Sequence[Element]) -> Element | None:
    children: list[Element] = []
    for found in common(guests, tag_of):
        if found[0].tag == "arch":
            arch = _arch(found)
            if arch is None:
                return None
            children.append(arch)
        elif found[0].tag == "features":
            children.append(bare(found[0], *_features(found)))
        elif (child := kept(found)) is not None:
            children.append(child)
    return bare(guests[0], *children)


def _arch(arches: Sequence[Element]) -> Element | None:
    """None: no machine or no domain type is common to all."""
    machines = _machines([arch.findall("machine") for arch in arches])
    if not machines and any(arch.find("machine") is not None for arch in arches):
        return None
    domains = [
        _domain(found, arches)
        for found in common([arch.findall("domain") for arch in arches], lambda domain: domain.get("type"))
    ]
    if not domains:
        return None
    plain = [
        child
        for found in common(arches, tag_of)
        if found[0].tag not in ("machine", "domain") and (child := kept(found)) is not None
    ]
    return bare(arches[0], *plain, *machines, *domains)


def _domain(domains: Sequence[Element], arches: Sequence[Element]) -> Element:
    """A domain type may have an emulator and machines of its own; else the architecture's are meant."""
    children: list[Element] = []
    if any(domain.find("emulator") is not None for domain in domains):
        paths = {
            text_of(domain, "emulator") or text_of(arch, "emulator")
            for domain, arch in zip(domains, arches, strict=True)
        }
        if len(paths) == 1:
            children.append(make("emulator", paths.pop()))
    if any(domain.find("machine") is not None for domain in domains):
        children.extend(
            _machines(
                [
                    domain.findall("machine") or arch.findall("machine")
                    for domain, arch in zip(domains, arches, strict=True)
                ]
            )
        )
    return bare(domains[0], *children)


def _machines(lists: Sequence[Sequence[Element]]) -> list[Element]:
    """Common names.  A name that stands for different machines on different nodes loses its `canonical`: it
    is good everywhere by its own name alone."""
    return [_machine(found) for found in common(lists, text_of)]


def _machine(machines: Sequence[Element]) -> Element:
    merged = clone(machines[0])
    limits = [machine.get("maxCpus") for machine in machines]
    if all(limits):
        merged.set("maxCpus", str(min(number_of(limit) for limit in limits)))
    else:
        merged.attrib.pop("maxCpus", None)
    if len({machine.get("canonical") for machine in machines}) > 1:
        merged.attrib.pop("canonical", None)
    if any(machine.get("deprecated") == "yes" for machine in machines):
        merged.set("deprecated", "yes")
    return merged


def _features(lists: Sequence[Element]) -> list[Element]:
    return [_feature(found) for found in common(lists, tag_of)]


def _feature(features: Sequence[Element]) -> Element:
    """toggle: can be changed on all; default: "off" where the nodes differ: a guest must say so."""
    merged = clone(features[0])
    for name, modest in (("default", "off"), ("toggle", "no")):
        if len({feature.get(name) for feature in features}) > 1:
            merged.set(name, modest)
    return merged
