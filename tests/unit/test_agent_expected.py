"""What the events of a call tell before its report does: only the one event of the only call counts."""

from hypothesis import given
from hypothesis import strategies as st

from clusterhost.agent.expected import Expected

WEB, MAIL = b"w" * 16, b"m" * 16
DEFINED, UNDEFINED, STARTED = 0, 1, 2


def told(steps: list[tuple[str, int]]) -> list[str]:
    """What `when_told(DEFINED)` says in the end."""
    expected, said = Expected(), []
    for step, event in steps:
        if step == "begin":
            expected.begin(WEB)
        elif step == "end":
            expected.end(WEB)
        elif step == "saw":
            expected.saw(WEB, "web", event)
        else:
            expected.when_told(WEB, DEFINED, said.append)
    return said


def test_the_one_event_of_a_call_is_told_whether_it_comes_before_the_answer_or_after() -> None:
    assert told([("begin", 0), ("saw", DEFINED), ("wait", 0)]) == ["web"]
    assert told([("begin", 0), ("wait", 0), ("saw", DEFINED)]) == ["web"]


def test_an_event_among_others_or_during_two_calls_tells_nothing() -> None:
    assert told([("begin", 0), ("saw", DEFINED), ("saw", STARTED), ("wait", 0)]) == []
    assert told([("begin", 0), ("saw", STARTED), ("wait", 0), ("saw", DEFINED)]) == []
    assert told([("begin", 0), ("begin", 0), ("saw", DEFINED), ("wait", 0)]) == []
    assert told([("saw", DEFINED), ("begin", 0), ("wait", 0)]) == []
    assert told([("begin", 0), ("wait", 0), ("end", 0), ("saw", DEFINED)]) == []


def test_domains_are_kept_apart_and_nothing_is_kept_of_calls_that_are_over() -> None:
    expected, said = Expected(), []
    expected.begin(WEB)
    expected.begin(MAIL)
    expected.when_told(WEB, UNDEFINED, said.append)
    expected.saw(MAIL, "mail", UNDEFINED)
    assert said == []
    expected.saw(WEB, "web", UNDEFINED)
    assert said == ["web"]
    expected.end(WEB)
    expected.end(MAIL)
    assert WEB not in expected
    assert MAIL not in expected


@given(
    st.lists(st.tuples(st.sampled_from(["begin", "end", "saw", "wait"]), st.sampled_from([DEFINED, STARTED])))
)
def test_it_is_told_once_at_most_while_a_call_is_under_way(steps: list[tuple[str, int]]) -> None:
    waits = sum(step == "wait" for step, _ in steps)
    assert len(told(steps)) <= waits
    if not any(step == "begin" for step, _ in steps):
        assert told(steps) == []
