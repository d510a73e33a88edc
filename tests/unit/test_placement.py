"""The rules of placement, whatever the nodes and the asks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placement import Ask, Match, NoMatch, Offer, Policy, explain, place, sentence
from placement.match import granted_limit_kib, vcpus_left
from placement.values import CpuModels

GIB = 1024 * 1024
ARCHES = ("x86_64", "aarch64")

POLICIES = st.builds(
    Policy,
    st.sampled_from(["striping", "packing"]),
    cpu_overcommit=st.sampled_from([0.5, 1.0, 4.0, 16.0]),
    memory_overcommit=st.sampled_from([0.5, 1.0, 1.5]),
)


def subsets(values: tuple[str, ...]) -> st.SearchStrategy[frozenset[str]]:
    return st.frozensets(st.sampled_from(values))


@st.composite
def clusters(draw: st.DrawFn) -> list[Offer]:
    """Up to eight nodes, as different as nodes can be."""
    return [
        draw(
            st.builds(
                Offer,
                node=st.just(f"n{number}"),
                open=st.booleans() if number % 2 else st.just(True),
                why_not=st.sampled_from(["", "disabled"]),
                memory_kib=(memory := st.shared(st.integers(0, 64 * GIB), key=f"m{number}")),
                free_kib=memory.flatmap(lambda most: st.integers(-most // 4, most)),
                cpus=st.integers(0, 64),
                vcpus_granted=st.integers(0, 100),
                arches=subsets(ARCHES),
                machines=subsets(("q35", "virt")),
                domain_types=subsets(("qemu", "kvm")),
                emulators=subsets(("/usr/bin/a", "/usr/bin/b")),
                cpu_models=st.sampled_from([{}, {"kvm": OLD}, {"kvm": NEW, "qemu": OLD}]),
                running=st.integers(0, 9),
                homes=st.integers(0, 9),
            )
        )
        for number in range(draw(st.integers(0, 8)))
    ]


NAMES = tuple(f"n{number}" for number in range(8))

ASKS = st.builds(
    Ask,
    name=st.just("web"),
    memory_kib=st.integers(0, 32 * GIB),
    vcpus=st.integers(1, 64),
    arch=st.sampled_from(["", *ARCHES]),
    machine=st.sampled_from(["", "q35"]),
    domain_type=st.sampled_from(["", "qemu", "kvm"]),
    cpu_model=st.sampled_from([None, "EPYC", "unheard-of"]),
    cpu_checked=st.booleans(),
    cpu_fallback=st.booleans(),
    emulator=st.sampled_from([None, "/usr/bin/a"]),
    home=st.sampled_from([None, *NAMES, "elsewhere"]),
    only=st.none() | subsets(NAMES),
    avoid=subsets(NAMES[:3]),
)


OLD = CpuModels("x86_64", frozenset({"EPYC", "pentium", "host-model"}), frozenset({"pentium"}))
NEW = CpuModels("x86_64", frozenset({"EPYC", "pentium", "host-model"}), frozenset({"EPYC", "host-model"}))


def runs_cpu(ask: Ask, models: CpuModels | None) -> bool:
    """What libvirt 9.0 was seen to start: tests/real/test_cpu_models.py."""
    if models is None or ask.cpu_model is None or (ask.arch and ask.arch != models.arch):
        return True
    if ask.cpu_model in models.known:
        return ask.cpu_model in models.usable or not ask.cpu_checked
    return ask.cpu_fallback


def fits(ask: Ask, offer: Offer, policy: Policy) -> bool:
    """The requirements, said once more and all at once."""
    granted = offer.memory_kib - offer.free_kib
    return (
        offer.open
        and offer.node not in ask.avoid
        and (ask.only is None or offer.node in ask.only)
        and ask.arch in {"", *offer.arches}
        and ask.machine in {"", *offer.machines}
        and ask.domain_type in {"", *offer.domain_types}
        and ask.emulator in {None, *offer.emulators}
        and runs_cpu(ask, offer.cpu_models.get(ask.domain_type))
        and granted + ask.memory_kib <= offer.memory_kib * policy.memory_overcommit
        and offer.vcpus_granted + ask.vcpus <= offer.cpus * policy.cpu_overcommit
    )


def started(offer: Offer, ask: Ask) -> Offer:
    """The offer once the domain runs there."""
    return replace(
        offer,
        free_kib=offer.free_kib - ask.memory_kib,
        vcpus_granted=offer.vcpus_granted + ask.vcpus,
        running=offer.running + 1,
    )


def run(asks: list[Ask], offers: list[Offer], policy: Policy) -> dict[str, Offer]:
    """Start one after the other where placement says; those without a node are left out."""
    nodes = {offer.node: offer for offer in offers}
    for ask in asks:
        outcome = place(ask, nodes.values(), policy)
        if isinstance(outcome, Match):
            nodes[outcome.node] = started(nodes[outcome.node], ask)
    return nodes


def same_nodes(count: int, memory_kib: int = 8 * GIB) -> list[Offer]:
    return [
        Offer(f"n{number}", memory_kib=memory_kib, free_kib=memory_kib, cpus=64)
        for number in range(1, count + 1)
    ]


@given(ASKS, clusters(), POLICIES)
def test_a_match_is_a_node_that_fits_and_there_is_none_only_when_no_node_fits(
    ask: Ask, offers: list[Offer], policy: Policy
) -> None:
    outcome = place(ask, offers, policy)
    fitting = {offer.node for offer in offers if fits(ask, offer, policy)}
    assert {reason.node for reason in outcome.reasons if reason.ok} == fitting
    assert outcome.node in fitting if isinstance(outcome, Match) else not fitting


@given(ASKS, clusters(), POLICIES, st.randoms())
def test_the_order_of_the_nodes_does_not_matter(
    ask: Ask, offers: list[Offer], policy: Policy, rng: st.DataObject
) -> None:
    shuffled = list(offers)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert place(ask, offers, policy) == place(ask, shuffled, policy)


@given(ASKS, clusters(), POLICIES)
def test_every_node_has_one_reason_and_the_chosen_comes_first(
    ask: Ask, offers: list[Offer], policy: Policy
) -> None:
    outcome = place(ask, offers, policy)
    assert sorted(reason.node for reason in outcome.reasons) == sorted(offer.node for offer in offers)
    assert all(reason.text for reason in outcome.reasons)
    if isinstance(outcome, Match):
        assert outcome.reasons[0].node == outcome.node
        assert [row["verdict"] for row in explain(outcome)].count("chosen") == 1
    else:
        assert not any(reason.ok for reason in outcome.reasons)


@given(ASKS, clusters(), POLICIES)
def test_home_is_chosen_when_it_fits_and_the_reason_says_so(
    ask: Ask, offers: list[Offer], policy: Policy
) -> None:
    outcome = place(ask, offers, policy)
    home = [offer for offer in offers if offer.node == ask.home and fits(ask, offer, policy)]
    if home:
        assert isinstance(outcome, Match)
        assert outcome.node == ask.home
        assert "its home" in outcome.reasons[0].text


@given(ASKS, clusters(), POLICIES)
def test_without_a_home_the_highest_score_wins(ask: Ask, offers: list[Offer], policy: Policy) -> None:
    outcome = place(replace(ask, home=None), offers, policy)
    scores = [reason.score for reason in outcome.reasons if reason.ok]
    assert scores == sorted(scores, reverse=True)


@given(st.lists(ASKS, max_size=30), clusters(), POLICIES)
def test_no_node_is_ever_granted_more_than_it_has(
    asks: list[Ask], offers: list[Offer], policy: Policy
) -> None:
    before = {offer.node: offer for offer in offers}
    for name, offer in run(asks, offers, policy).items():
        if offer != before[name]:
            assert granted_limit_kib(offer, policy) >= 0
            assert vcpus_left(offer, policy) >= 0


@given(st.integers(0, 40), st.integers(1, 7), st.booleans(), st.data())
def test_striping_spreads_equal_domains_evenly(
    count: int, nodes: int, only_define: bool, data: st.DataObject
) -> None:
    offers = same_nodes(nodes, memory_kib=64 * GIB)
    # What is free differs, but everything fits everywhere: the numbers must still be even.
    offers = [replace(offer, free_kib=data.draw(st.integers(41 * GIB, 64 * GIB))) for offer in offers]
    places = {offer.node: offer for offer in offers}
    for number in range(count):
        ask = Ask(f"d{number}", memory_kib=GIB)
        outcome = place(ask, places.values(), Policy("striping"))
        assert isinstance(outcome, Match)
        chosen = places[outcome.node]
        places[chosen.node] = replace(chosen, homes=chosen.homes + 1) if only_define else started(chosen, ask)
    counts = [offer.running + offer.homes for offer in places.values()]
    assert sum(counts) == count
    assert max(counts) - min(counts) <= 1


@given(st.integers(0, 40), st.integers(1, 7), st.integers(1, 8))
def test_packing_uses_as_few_nodes_as_equal_domains_need(count: int, nodes: int, of_each: int) -> None:
    offers = same_nodes(nodes, memory_kib=of_each * GIB)
    after = run([Ask(f"d{number}", memory_kib=GIB) for number in range(count)], offers, Policy("packing"))
    counts = [offer.running for offer in after.values()]
    placed = min(count, nodes * of_each)
    assert sum(counts) == placed
    assert sum(1 for number in counts if number) == -(-placed // of_each)


def test_six_domains_on_three_nodes_are_two_on_each() -> None:
    after = run([Ask(f"d{number}", memory_kib=GIB) for number in range(6)], same_nodes(3), Policy())
    assert {name: offer.running for name, offer in after.items()} == {"n1": 2, "n2": 2, "n3": 2}


@pytest.mark.parametrize(
    ("ask", "offer", "text"),
    [
        ({}, {"open": False, "why_not": "out of reach since 12:03:04"}, "out of reach since 12:03:04"),
        ({}, {"open": False}, "takes no new domains"),
        ({"avoid": frozenset({"n1"})}, {}, "web must not go there"),
        ({"only": frozenset({"n3", "n2"})}, {}, "web is bound to n2, n3"),
        (
            {"domain_type": "kvm"},
            {"domain_types": frozenset({"qemu"})},
            "has domain type qemu, web needs kvm",
        ),
        ({"arch": "s390x"}, {}, "has architecture none, web needs s390x"),
        (
            {"machine": "pc-q35-9.0"},
            {"machines": frozenset({"pc", "q35"})},
            "has no machine type pc-q35-9.0, web needs it (it has 2 others)",
        ),
        (
            {"emulator": "/bin/q"},
            {"emulators": frozenset({"/bin/p"})},
            "has emulator /bin/p, web needs /bin/q",
        ),
        ({"cpu_model": "EPYC"}, {"cpu_models": {"": OLD}}, "cannot run CPU EPYC, web needs it"),
        ({"memory_kib": 2 * GIB}, {"free_kib": GIB // 2}, "has 512 MiB free, web needs 2048 MiB"),
        ({"memory_kib": 2}, {"free_kib": 1}, "has 1 KiB free, web needs 2 KiB"),
        (
            {"vcpus": 9},
            {"cpus": 2, "vcpus_granted": 30},
            "has 2 vcpus left (2 CPUs, each granted 16 times), web needs 9",
        ),
    ],
)
def test_a_reason_says_what_was_found_and_what_is_needed(
    ask: dict[str, object], offer: dict[str, object], text: str
) -> None:
    node = replace(same_nodes(1)[0], **offer)  # type: ignore[arg-type]
    outcome = place(Ask("web", **ask), [node], Policy())  # type: ignore[arg-type]
    assert isinstance(outcome, NoMatch)
    assert [reason.text for reason in outcome.reasons] == [text]


def test_an_outcome_is_told_in_one_sentence_and_in_rows() -> None:
    full = [replace(offer, free_kib=0) for offer in same_nodes(2, memory_kib=GIB)]
    ask = Ask("web", memory_kib=GIB)
    outcome = place(ask, [*full, Offer("n3", open=False, why_not="disabled")], Policy())
    assert sentence("web", outcome) == (
        "no node can take web: n1, n2: has 0 MiB free, web needs 1024 MiB; n3: disabled"
    )
    assert sentence("web", place(ask, [], Policy())) == "no node can take web: there are no nodes"
    chosen = place(replace(ask, home="n2"), [*same_nodes(2), full[0]][:2], Policy())
    assert (
        sentence("web", chosen)
        == "web goes to n2: its home, where it fits; 0 domains there, 7168 MiB left with this one"
    )
    assert [(row["node"], row["verdict"]) for row in explain(chosen)] == [("n2", "chosen"), ("n1", "fits")]


@pytest.mark.parametrize("values", [{"name": "random"}, {"cpu_overcommit": 0.0}, {"memory_overcommit": -1.0}])
def test_a_policy_that_means_nothing_is_refused_with_what_is_allowed(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="allowed are"):
        Policy(**values)  # type: ignore[arg-type]


def test_a_definition_that_names_cells_goes_to_one_of_them_only() -> None:
    offers = [Offer(f"n{cell + 1}", cell, memory_kib=GIB, free_kib=GIB, cpus=2) for cell in range(3)]
    outcome = place(Ask("web", home="n1", cells=frozenset({1, 2})), offers, Policy())
    assert isinstance(outcome, Match)
    assert outcome.node == "n2"
    assert outcome.reasons[0].text.endswith("bound to cells 1, 2")
    assert outcome.reasons[-1].text == "is cell 0, the definition of web binds it to cells 1, 2"
    none = place(Ask("web", cells=frozenset({9})), offers, Policy())
    assert isinstance(none, NoMatch)


def test_cells_that_are_preferred_come_before_home_and_bind_nothing() -> None:
    offers = [Offer(f"n{cell + 1}", cell, memory_kib=GIB, free_kib=GIB, cpus=2) for cell in range(3)]
    wish = Ask("web", home="n1", near=frozenset({2}))
    outcome = place(wish, offers, Policy())
    assert isinstance(outcome, Match)
    assert outcome.node == "n3"
    assert outcome.reasons[0].text.startswith("its definition prefers cell 2")
    closed = [replace(each, open=each.node != "n3", why_not="disabled") for each in offers]
    fallback = place(wish, closed, Policy())
    assert isinstance(fallback, Match)
    assert fallback.node == "n1"
