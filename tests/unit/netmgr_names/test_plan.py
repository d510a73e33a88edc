"""The plan for a zone: it ends where it shall, rests there, and never touches what is not ours."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netmgr.names.plan import after, holds, is_ours, steps_to
from netmgr.names.records import MARK, OURS, Node, Nodes, Rrset, mark_of, mark_with_texts

OWNER, OTHER = "our-uuid", "other-uuid"
OUR_MARK, WITH_TEXTS = mark_of(OWNER), mark_with_texts(OWNER)
ZONE = "z.test."
NAMES = st.sampled_from([f"{letter}.z.test." for letter in "abcdef"])


def rrsets(*data: str) -> st.SearchStrategy[Rrset]:
    return st.builds(Rrset, st.sampled_from([60, 300]), st.frozensets(st.sampled_from(data), min_size=1))


RECORDS = {kind: rrsets(f"{kind}-1", f"{kind}-2") for kind in OURS}
TEXTS = rrsets(OUR_MARK, WITH_TEXTS, mark_of(OTHER), '"v=spf1"', '"one"')
WANTED = {**RECORDS, MARK: rrsets('"one"', '"two"')}
wanted_nodes = st.dictionaries(NAMES, st.fixed_dictionaries({}, optional=WANTED).filter(bool))
actual_nodes = st.dictionaries(
    NAMES,
    st.fixed_dictionaries({}, optional={**RECORDS, MARK: TEXTS, "MX": rrsets("10 mail.")}).filter(bool),
)


def ours_of(node: Node) -> Node:
    """What is ours at a name of ours, without its mark."""
    found = {kind: rrset for kind, rrset in node.items() if kind in OURS}
    texts = node[MARK]
    if WITH_TEXTS in texts.data:
        found[MARK] = Rrset(texts.ttl, texts.data - {WITH_TEXTS})
    return found


def theirs_of(node: Node, wanted: Node) -> dict[str, frozenset[str]]:
    """All that we must leave alone at a name, whosever that is; with texts of ours there, all texts are ours."""
    data = {kind: rrset.data - {OUR_MARK} for kind, rrset in node.items() if kind not in OURS}
    if is_ours(node, OWNER) and (MARK in wanted or WITH_TEXTS in node[MARK].data):
        del data[MARK]
    return {kind: found for kind, found in data.items() if found}


@given(wanted_nodes, actual_nodes)
def test_a_plan_leads_to_exactly_our_names_and_then_rests(wanted: Nodes, actual: Nodes) -> None:
    plan = steps_to(ZONE, wanted, actual, OWNER)
    assert all(holds(actual, update) for update in plan.updates)
    end = after(actual, plan.updates)
    again = steps_to(ZONE, wanted, end, OWNER)
    assert (again.updates, again.taken) == ((), plan.taken)
    assert {name: ours_of(node) for name, node in end.items() if is_ours(node, OWNER)} == {
        name: node for name, node in wanted.items() if name not in plan.taken
    }


@given(wanted_nodes, actual_nodes)
def test_what_is_not_marked_is_never_touched(wanted: Nodes, actual: Nodes) -> None:
    plan = steps_to(ZONE, wanted, actual, OWNER)
    foreign = {name: node for name, node in actual.items() if not is_ours(node, OWNER)}
    assert not {update.name for update in plan.updates} & set(foreign)
    assert set(plan.taken) == set(foreign) & set(wanted)
    end = after(actual, plan.updates)
    for name, node in actual.items():
        theirs = theirs_of(node, wanted.get(name, {}))
        assert theirs.items() <= theirs_of(end.get(name, {}), {}).items()


@given(wanted_nodes, actual_nodes, actual_nodes)
def test_a_race_overwrites_nobody(wanted: Nodes, seen: Nodes, there: Nodes) -> None:
    """The zone is another one by the time that the updates arrive."""
    plan = steps_to(ZONE, wanted, seen, OWNER)
    done = [update for update in plan.updates if holds(there, update)]
    end = after(there, done)
    for name, node in there.items():
        if not is_ours(node, OWNER):
            assert end[name] == node
        theirs = theirs_of(node, wanted.get(name, {}))
        assert theirs.items() <= theirs_of(end.get(name, {}), {}).items()


def test_a_name_is_made_only_where_there_is_none() -> None:
    (update,) = steps_to(ZONE, {"a.z.test.": {"A": Rrset(60, frozenset({"192.0.2.1"}))}}, {}, OWNER).updates
    assert update.marks is None
    assert update.add == (("A", 60, "192.0.2.1"), (MARK, 60, OUR_MARK))


def test_only_what_differs_is_changed() -> None:
    six, mark = Rrset(60, frozenset({"2001:db8::1"})), Rrset(60, frozenset({OUR_MARK}))
    actual = {"a.z.test.": {"A": Rrset(60, frozenset({"192.0.2.1"})), "AAAA": six, MARK: mark}}
    wanted = {"a.z.test.": {"A": Rrset(60, frozenset({"192.0.2.2"})), "AAAA": six}}
    (update,) = steps_to(ZONE, wanted, actual, OWNER).updates
    assert (update.drop, update.add, update.unmark) == (("A",), (("A", 60, "192.0.2.2"),), False)
    assert update.marks == {OUR_MARK}


def test_a_name_that_goes_leaves_what_others_put_there() -> None:
    texts = Rrset(60, frozenset({OUR_MARK, '"v=spf1"'}))
    actual = {"a.z.test.": {"A": Rrset(60, frozenset({"192.0.2.1"})), MARK: texts}}
    plan = steps_to(ZONE, {}, actual, OWNER)
    assert after(actual, plan.updates) == {"a.z.test.": {MARK: Rrset(60, frozenset({'"v=spf1"'}))}}


def test_the_names_of_another_cluster_are_not_ours() -> None:
    actual = {
        "a.z.test.": {"A": Rrset(60, frozenset({"192.0.2.1"})), MARK: Rrset(60, frozenset({mark_of(OTHER)}))}
    }
    plan = steps_to(ZONE, {"a.z.test.": {"A": Rrset(60, frozenset({"192.0.2.2"}))}}, actual, OWNER)
    assert (plan.updates, plan.taken) == ((), ("a.z.test.",))


def test_texts_of_ours_come_change_and_go_as_a_whole() -> None:
    def texts(*data: str) -> Rrset:
        return Rrset(60, frozenset(data))

    one, two = {"a.z.test.": {MARK: texts('"one"')}}, {"a.z.test.": {MARK: texts('"two"')}}
    made = after({}, steps_to(ZONE, one, {}, OWNER).updates)
    assert made == {"a.z.test.": {MARK: texts('"one"', WITH_TEXTS)}}
    changed = after(made, steps_to(ZONE, two, made, OWNER).updates)
    assert changed == {"a.z.test.": {MARK: texts('"two"', WITH_TEXTS)}}
    address = {"a.z.test.": {"A": texts("192.0.2.1")}}
    plain = after(changed, steps_to(ZONE, address, changed, OWNER).updates)
    assert plain == {"a.z.test.": {"A": texts("192.0.2.1"), MARK: texts(OUR_MARK)}}
    assert after(changed, steps_to(ZONE, {}, changed, OWNER).updates) == {}
