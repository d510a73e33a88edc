"""Choose a node for a domain: requirements filter, rank orders, every node gets a reason.  Pure.

`place(ask, offers, policy)` decides; `placement.ask.requirements` reads the ask from a definition,
`placement.offer` builds an offer from a node's capabilities, `explain` and `sentence` tell why.
"""

from placement.explain import explain, sentence
from placement.match import place
from placement.values import Ask, Match, NoMatch, Offer, Outcome, Policy, Reason

__all__ = ["Ask", "Match", "NoMatch", "Offer", "Outcome", "Policy", "Reason", "explain", "place", "sentence"]
