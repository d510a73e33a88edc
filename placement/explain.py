"""Tell an outcome to people: rows for a table, one sentence for an error.  Pure."""

from __future__ import annotations

from placement.values import Match, NoMatch, Outcome


def explain(outcome: Outcome) -> list[dict[str, str]]:
    """One row a node, the chosen first: node, verdict (chosen | fits | no), score, why."""
    chosen = outcome.node if isinstance(outcome, Match) else None
    return [
        {
            "node": reason.node,
            "verdict": "chosen" if reason.node == chosen else "fits" if reason.ok else "no",
            "score": f"{reason.score:.3f}" if reason.ok else "",
            "why": reason.text,
        }
        for reason in outcome.reasons
    ]


def sentence(name: str, outcome: Outcome) -> str:
    """For an error or an audit line; nodes with the same reason are told together."""
    if isinstance(outcome, Match):
        return f"{name} goes to {outcome.node}: {outcome.reasons[0].text}"
    return f"no node can take {name}: {_told(outcome)}"


def _told(outcome: NoMatch) -> str:
    nodes: dict[str, list[str]] = {}
    for reason in outcome.reasons:
        nodes.setdefault(reason.text, []).append(reason.node)
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in nodes.items()) or "there are no nodes"
