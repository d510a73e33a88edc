"""Domain capabilities that every node can honour: the intersection of their documents.  Pure.

One rule for the whole tree: children meet by tag and name (or value), what only some nodes have goes,
`supported` is "yes" when all say so.  The tables name the elements that need more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clusterhost.frontend.libvirt.hostview.trees import (
    Element,
    bare,
    clone,
    common,
    make,
    number_of,
    same,
    tag_of,
    text_of,
    write,
)


@dataclass(frozen=True, slots=True)
class Question:
    """What domain capabilities are asked for; None: the node's default."""

    emulator: str | None = None
    arch: str | None = None
    machine: str | None = None
    virttype: str | None = None


def pinned(question: Question, documents: Sequence[Element]) -> Question | None:
    """The question to ask again, of all nodes, when their defaults differ (one has KVM, another not; one
    has a newer machine behind the same alias): with what all have.  None: they answered the same question."""
    first = documents[0]
    virttypes = {text_of(document, "domain") for document in documents}
    arches = {text_of(document, "arch") for document in documents}
    machines = {text_of(document, "machine") for document in documents}
    if len(virttypes) == len(arches) == len(machines) == 1:
        return None
    return Question(
        question.emulator,
        question.arch if len(arches) == 1 else text_of(first, "arch"),
        question.machine if len(machines) == 1 or len(arches) > 1 else min(machines, key=natural),
        question.virttype if len(virttypes) == 1 else "qemu",
    )


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key under which pc-q35-7.2 comes before pc-q35-10.0: the older machine, which newer QEMUs keep."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def host_models(documents: Sequence[Element]) -> list[Element]:
    """CPUs for libvirt's hypervisor baseline call, when the nodes' host models differ in more than features;
    else empty.  Nodes without a host model make none."""
    modes = [document.find("cpu/mode[@name='host-model']") for document in documents]
    found = [mode for mode in modes if mode is not None and mode.get("supported") == "yes"]
    if len(found) < len(modes) or len({text_of(mode, "model") for mode in found}) < 2:
        return []
    cpus: dict[str, Element] = {}
    for mode in found:
        cpu = make("cpu", mode="custom", match="exact")
        cpu.extend(clone(child) for child in mode)
        cpus.setdefault(write(cpu), cpu)
    return list(cpus.values())


def merge(documents: Sequence[Element], baseline: Element | None = None) -> Element:
    """One document.  baseline: libvirt's answer to `host_models`."""
    merged = _element(documents)
    mode = merged.find("cpu/mode[@name='host-model']")
    if mode is not None and baseline is not None:
        mode[:] = [clone(child) for child in baseline if child.tag in ("model", "vendor", "feature")]
    return merged


# ---- the rule ----

_Rule = Callable[[Sequence[Element]], Element]


def _key(element: Element) -> tuple[str, str]:
    name = element.get("name")
    if name is None and element.tag in ("value", "model"):
        name = text_of(element)
    return tag_of(element), name or ""


def _element(found: Sequence[Element]) -> Element:
    rule = _RULES.get(_key(found[0])) or _RULES.get((tag_of(found[0]), ""))
    return rule(found) if rule is not None else _generic(found)


def _generic(found: Sequence[Element]) -> Element:
    if any(element.get("supported") == "no" for element in found):
        return _unsupported(found[0])
    children = [_element(same_key) for same_key in common(found, _key) if _mergeable(same_key)]
    lost = _ESSENTIAL.get(tag_of(found[0]), frozenset()) - {tag_of(child) for child in children}
    if any(element.find(tag) is not None for tag in lost for element in found):
        return _unsupported(found[0])
    return bare(found[0], *children)


def _unsupported(element: Element) -> Element:
    unsupported = bare(element)
    unsupported.text = None
    unsupported.set("supported", "no")
    return unsupported


def _mergeable(found: Sequence[Element]) -> bool:
    """Leaves that differ have no common meaning, unless a rule gives them one."""
    first = found[0]
    if len(first) or first.get("supported") is not None or first.tag == "enum":
        return True
    return _key(first) in _RULES or (tag_of(first), "") in _RULES or same(found)


_ESSENTIAL = {"sev": frozenset({"cbitpos", "reducedPhysBits"})}
"""Elements that mean nothing without these children."""


def _first(found: Sequence[Element]) -> Element:
    return clone(found[0])


def _oldest(found: Sequence[Element]) -> Element:
    return clone(min(found, key=lambda element: natural(text_of(element))))


def _smallest_max(found: Sequence[Element]) -> Element:
    return clone(min(found, key=lambda element: number_of(element.get("max"))))


def _smallest(found: Sequence[Element]) -> Element:
    return clone(min(found, key=lambda element: number_of(element.text)))


def _all_yes(found: Sequence[Element]) -> Element:
    merged = clone(found[0])
    merged.text = "yes" if all(text_of(element) == "yes" for element in found) else "no"
    return merged


_USABLE = ("no", "unknown", "yes")


def _model(found: Sequence[Element]) -> Element:
    """A named CPU model: usable where it is usable on every node."""
    merged = clone(found[0])
    usable = [element.get("usable") for element in found]
    if all(value in _USABLE for value in usable):
        merged.set("usable", min((str(value) for value in usable), key=_USABLE.index))
    if any(element.get("deprecated") == "yes" for element in found):
        merged.set("deprecated", "yes")
    return merged


def _host_model(modes: Sequence[Element]) -> Element:
    """Of one model: features that all require, and all that any disables.  Of several: the first, for `merge`
    to replace by the baseline."""
    if any(mode.get("supported") != "yes" for mode in modes):
        return _unsupported(modes[0])
    if len({text_of(mode, "model") for mode in modes}) > 1:
        return clone(modes[0])
    plain = [clone(child) for child in modes[0] if child.tag != "feature"]
    disabled: dict[str, Element] = {}
    for feature in (feature for mode in modes for feature in mode.iterfind("feature[@policy='disable']")):
        disabled.setdefault(feature.get("name") or "", feature)
    required = common(
        [[child for child in mode.iterfind("feature") if child.get("policy") != "disable"] for mode in modes],
        lambda feature: feature.get("name"),
    )
    features = [found[0] for found in required if (found[0].get("name") or "") not in disabled]
    return bare(modes[0], *plain, *(clone(feature) for feature in [*features, *disabled.values()]))


_RULES: dict[tuple[str, str], _Rule] = {
    ("path", ""): _first,
    ("domain", ""): _first,
    ("arch", ""): _first,
    ("machine", ""): _oldest,
    ("vcpu", ""): _smallest_max,
    ("model", ""): _model,
    ("mode", "host-model"): _host_model,
    ("maxGuests", ""): _smallest,
    ("maxESGuests", ""): _smallest,
    ("section_size", ""): _smallest,
    ("flc", ""): _all_yes,
    ("sgx1", ""): _all_yes,
    ("sgx2", ""): _all_yes,
}
