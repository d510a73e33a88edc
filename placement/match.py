"""Match one ask with many offers: a table of requirements filters, a table of policies ranks.  Pure.

The outcome does not depend on the order of the offers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from placement.values import Ask, Match, NoMatch, Offer, Outcome, Policy, Reason

GIB = 1 << 30
"""Bytes that must come which weigh as much as a domain more, or less, on the node."""

Requirement = Callable[[Ask, Offer, Policy], str]
"""Returns why the node does not fit, "" when it does."""


def place(ask: Ask, offers: Iterable[Offer], policy: Policy) -> Outcome:
    """Choose a node, with the reason for every node.

    Those near first, then home when it fits and no other that fits lacks fewer bytes of the images; then the highest
    score: that of the policy, less one for each GiB that must come or go; equal scores: the name that sorts first."""
    offers = list(offers)
    near = frozenset(offer.node for offer in offers if offer.cell in ask.near)
    judged = [_judge(ask, offer, policy) for offer in offers]
    fits = frozenset(reason.node for reason in judged if reason.ok)
    home = _preferred_home(ask, [offer for offer in offers if offer.node in fits])
    fitting = sorted(
        (reason for reason in judged if reason.ok), key=lambda reason: _order(home, near, reason)
    )
    refused = sorted((reason for reason in judged if not reason.ok), key=lambda reason: reason.node)
    if not fitting:
        return NoMatch(tuple(refused))
    return Match(fitting[0].node, (*fitting, *refused))


def granted_limit_kib(offer: Offer, policy: Policy) -> int:
    """Memory in KiB that may still be granted on the node; below 0 when too much is already."""
    return offer.free_kib + int(offer.memory_kib * (policy.memory_overcommit - 1))


def vcpus_left(offer: Offer, policy: Policy) -> int:
    """Vcpus that may still be granted on the node."""
    return int(offer.cpus * policy.cpu_overcommit) - offer.vcpus_granted


def _preferred_home(ask: Ask, fitting: list[Offer]) -> str | None:
    """A domain starts at home, unless its disks are elsewhere."""
    least = min((offer.coming for offer in fitting), default=0)
    return next((offer.node for offer in fitting if offer.node == ask.home and offer.coming == least), None)


def _order(home: str | None, near: frozenset[str], reason: Reason) -> tuple[bool, bool, float, str]:
    return reason.node not in near, reason.node != home, -reason.score, reason.node


def _judge(ask: Ask, offer: Offer, policy: Policy) -> Reason:
    for requirement in REQUIREMENTS:
        why_not = requirement(ask, offer, policy)
        if why_not:
            return Reason(offer.node, False, 0.0, why_not)
    left = granted_limit_kib(offer, policy) - ask.memory_kib
    count = offer.running + offer.homes
    text = f"{count} domain{'' if count == 1 else 's'} there, {_mib(left)} left with this one"
    if offer.node == ask.home:
        text = f"its home, where it fits; {text}"
    if offer.cell in ask.near:
        text = f"its definition prefers cell {offer.cell}; {text}"
    if ask.cells is not None:
        text = f"{text}; bound to {_cells(ask.cells)}"
    if offer.coming:
        text = f"{text}; {-(-offer.coming // (1 << 20))} MiB of its images must come"
    if offer.freeing:
        text = f"{text}, {-(-offer.freeing // (1 << 20))} MiB of copies that are not in use would go for them"
    score = RANKS[policy.name](offer, _share(left, offer)) - (offer.coming + offer.freeing) / GIB
    return Reason(offer.node, True, score, text)


def _share(left: int, offer: Offer) -> float:
    return min(max(left / offer.memory_kib, 0.0), 1.0) if offer.memory_kib else 0.0


# The share of memory left is halved so that it only ever decides between equal numbers of domains.
RANKS: dict[str, Callable[[Offer, float], float]] = {
    "striping": lambda offer, share: share / 2 - (offer.running + offer.homes),
    "packing": lambda offer, share: (offer.running + offer.homes) - share / 2,
}
"""Score of a node that fits, from the share of its memory that would be left (OpenNebula's RUNNING_VMS, both
ways)."""


def _is_open(ask: Ask, offer: Offer, policy: Policy) -> str:
    return "" if offer.open else offer.why_not or "takes no new domains"


def _is_wanted(ask: Ask, offer: Offer, policy: Policy) -> str:
    if offer.node in ask.avoid:
        return f"{ask.name} must not go there"
    if ask.only is not None and offer.node not in ask.only:
        return f"{ask.name} is bound to {', '.join(sorted(ask.only)) or 'no node'}"
    return ""


def _is_bound(ask: Ask, offer: Offer, policy: Policy) -> str:
    if ask.cells is None or offer.cell in ask.cells:
        return ""
    return f"is cell {offer.cell}, the definition of {ask.name} binds it to {_cells(ask.cells)}"


def _cells(cells: frozenset[int]) -> str:
    text = ", ".join(map(str, sorted(cells)))
    return f"cell {text}" if len(cells) == 1 else f"cells {text or 'that nobody has'}"


def _has_domain_type(ask: Ask, offer: Offer, policy: Policy) -> str:
    return _among(ask, "domain type", ask.domain_type, offer.domain_types)


def _has_arch(ask: Ask, offer: Offer, policy: Policy) -> str:
    return _among(ask, "architecture", ask.arch, offer.arches)


def _has_machine(ask: Ask, offer: Offer, policy: Policy) -> str:
    if not ask.machine or ask.machine in offer.machines:
        return ""
    # A node knows a hundred machine types: naming them all helps nobody.
    return f"has no machine type {ask.machine}, {ask.name} needs it (it has {len(offer.machines)} others)"


def _has_emulator(ask: Ask, offer: Offer, policy: Policy) -> str:
    return _among(ask, "emulator", ask.emulator or "", offer.emulators)


def _has_cpu_model(ask: Ask, offer: Offer, policy: Policy) -> str:
    model, found = ask.cpu_model, offer.cpu_models.get(ask.domain_type)
    if model is None or found is None or ask.arch not in ("", found.arch):
        return ""
    if model in found.usable or (not ask.cpu_checked and model in found.known):
        return ""
    if model not in found.known and ask.cpu_fallback:
        return ""
    return f"cannot run CPU {model}, {ask.name} needs it"


def _has_memory(ask: Ask, offer: Offer, policy: Policy) -> str:
    left = granted_limit_kib(offer, policy)
    if ask.memory_kib <= left:
        return ""
    return f"has {_mib(max(left, 0))} free, {ask.name} needs {_mib(ask.memory_kib)}"


def _has_vcpus(ask: Ask, offer: Offer, policy: Policy) -> str:
    left = vcpus_left(offer, policy)
    if ask.vcpus <= left:
        return ""
    limit = f"{offer.cpus} CPUs, each granted {policy.cpu_overcommit:g} times"
    return f"has {max(left, 0)} vcpus left ({limit}), {ask.name} needs {ask.vcpus}"


REQUIREMENTS: tuple[Requirement, ...] = (
    _is_open,
    _is_wanted,
    _is_bound,
    _has_domain_type,
    _has_arch,
    _has_machine,
    _has_emulator,
    _has_cpu_model,
    _has_memory,
    _has_vcpus,
)
"""In the order in which their reasons are worth reading: the first that fails is told."""


def _among(ask: Ask, what: str, wanted: str, offered: frozenset[str]) -> str:
    if not wanted or wanted in offered:
        return ""
    return f"has {what} {', '.join(sorted(offered)) or 'none'}, {ask.name} needs {wanted}"


def _mib(kib: int) -> str:
    return f"{kib // 1024} MiB" if kib % 1024 == 0 or kib > 1024 * 1024 else f"{kib} KiB"
