"""The host CPU of several nodes: what a guest may count on everywhere.  Pure; the caller asks for baselines.

Nodes of one model differ in features only, and their intersection is exact.  For different models libvirt
must say the baseline (it knows what they mean); until that answer is there, the first node's CPU is shown.
"""

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


def of_first_architecture(cpus: Sequence[Element]) -> list[Element]:
    """Those whose architecture is the first one's: others cannot be merged with it."""
    arch = text_of(cpus[0], "arch")
    return [cpu for cpu in cpus if text_of(cpu, "arch") == arch]


def baseline_request(cpus: Sequence[Element]) -> list[Element]:
    """CPUs to hand to libvirt's baseline call, one for each model; empty when no call is needed."""
    groups: dict[str, list[Element]] = {}
    for cpu in of_first_architecture(cpus):
        groups.setdefault(text_of(cpu, "model"), []).append(cpu)
    if len(groups) < 2:
        return []
    return [_core(group) for group in groups.values()]


def merge(cpus: Sequence[Element], baseline: Element | None = None) -> Element:
    """The `<cpu>` of capabilities' `<host>`.  baseline: libvirt's answer to `baseline_request`."""
    alike = of_first_architecture(cpus)
    differ = len({text_of(cpu, "model") for cpu in alike}) > 1
    if differ and baseline is None:
        alike = alike[:1]
    head: list[Element] = []
    for child in alike[0]:
        if child.tag not in ("feature", "pages"):
            merged = _child(tag_of(child), alike, baseline if differ else None)
            if merged is not None:
                head.append(merged)
    pages = [clone(found[0]) for found in common([cpu.findall("pages") for cpu in cpus], _page)]
    return bare(alike[0], *head, *_features(alike, baseline if differ else None), *pages)


def _child(tag: str, cpus: Sequence[Element], baseline: Element | None) -> Element | None:
    """A child other than features and pages; None when not all nodes have it alike."""
    if baseline is not None and tag in ("model", "vendor"):
        text = text_of(baseline, tag)
        return make(tag, text) if text else None
    found = [child for cpu in cpus if (child := cpu.find(tag)) is not None]
    if len(found) < len(cpus):
        return None
    if tag == "maxphysaddr" and len({child.get("mode") for child in found}) == 1:
        return clone(min(found, key=lambda child: number_of(child.get("bits"))))
    return kept(found)


def _features(cpus: Sequence[Element], baseline: Element | None) -> list[Element]:
    """A host CPU names only what it has: a baseline's policy "disable" has no form here and is left out."""
    if baseline is not None:
        return [
            make("feature", name=feature.get("name") or "")
            for feature in baseline.iterfind("feature")
            if feature.get("policy", "require") in ("require", "force")
        ]
    return [clone(found[0]) for found in common([cpu.findall("feature") for cpu in cpus], _name)]


def _core(cpus: Sequence[Element]) -> Element:
    """Architecture, model, vendor and common features of CPUs of one model: what the baseline call reads."""
    core = make("cpu")
    core.extend(clone(child) for child in cpus[0] if child.tag in ("arch", "model", "vendor"))
    core.extend(_features(cpus, None))
    return core


def _name(element: Element) -> str:
    return element.get("name") or ""


def _page(element: Element) -> tuple[str, str]:
    return element.get("unit") or "KiB", element.get("size") or ""
