"""The live model keeps its indexes right whatever happens, and says when it may speak for a domain."""

from __future__ import annotations

import uuid as uuids
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from clusterhost.model import errors
from clusterhost.model.cluster import Cluster, format_uuid
from clusterhost.model.domain import RUNNING, SHUTOFF, Domain
from clusterhost.model.errors import DomainNotFound, NodeNotFound
from clusterhost.model.node import Admin, Figures, Host, Link, Node

UUIDS = [bytes([number]) * 16 for number in range(6)]
NAMES = ["web", "db", "mail", "web@n2"]
NODES = ["n1", "n2", "n3"]


def a_cluster() -> Cluster:
    return Cluster(b"c" * 16, "demo", "front")


class Indexes(RuleBasedStateMachine):
    """Compares the cluster with a plain list of domains, searched from its beginning."""

    @initialize()
    def begin(self) -> None:
        self.cluster = a_cluster()
        self.expected: dict[bytes, Domain] = {}
        self.holders: dict[str, list[bytes]] = {}
        self.next_id = 1

    @rule(
        uuid=st.sampled_from(UUIDS),
        name=st.sampled_from(NAMES),
        known_as=st.sampled_from(["", "", "web@n2", "other"]),
        node=st.sampled_from(NODES),
        active=st.booleans(),
    )
    def put(self, uuid: bytes, name: str, known_as: str, node: str, active: bool) -> None:
        number = self.next_id if active else -1
        self.next_id += 1
        domain = Domain(uuid, name, node, id=number, known_as=known_as, state=RUNNING if active else SHUTOFF)
        before = (self.cluster.version, self.cluster.changes)
        old = self.expected.get(uuid)
        self._let_go(uuid)
        self.cluster.put(domain)
        self.expected[uuid] = domain
        self.holders.setdefault(known_as or name, []).append(uuid)
        assert self.cluster.changes > before[1]
        assert (self.cluster.version > before[0]) == (old is None or old.node != node)

    @rule(uuid=st.sampled_from(UUIDS))
    def drop(self, uuid: bytes) -> None:
        if uuid not in self.expected:
            with pytest.raises(DomainNotFound):
                self.cluster.drop(uuid)
            return
        version = self.cluster.version
        self._let_go(uuid)
        assert self.cluster.drop(uuid) == self.expected.pop(uuid)
        assert self.cluster.version > version

    def _let_go(self, uuid: bytes) -> None:
        for holders in self.holders.values():
            if uuid in holders:
                holders.remove(uuid)

    @invariant()
    def every_look_up_agrees(self) -> None:
        assert list(self.cluster.domains()) == list(self.expected.values())
        assert len(self.cluster) == len(self.expected)
        for view in [None, *NODES]:
            seen = [domain for domain in self.expected.values() if view in (None, domain.node)]
            assert list(self.cluster.domains(view)) == seen
            for uuid in UUIDS:
                self._agree(self.cluster.by_uuid, uuid, view, self.expected.get(uuid))
            for name in [*NAMES, "other"]:
                holders = self.holders.get(name)
                self._agree(self.cluster.by_name, name, view, self.expected[holders[0]] if holders else None)
            for number in range(1, self.next_id):
                found = [domain for domain in self.expected.values() if domain.id == number]
                self._agree(self.cluster.by_id, number, view, found[0] if found else None)

    def _agree(self, look_up, key, view, domain) -> None:  # type: ignore[no-untyped-def]
        if domain is None or view not in (None, domain.node):
            with pytest.raises(DomainNotFound):
                look_up(key, view)
        else:
            assert look_up(key, view) is domain


Indexes.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestIndexes = Indexes.TestCase


def test_two_domains_of_one_name_are_both_found_in_turn() -> None:
    cluster = a_cluster()
    first, second = Domain(UUIDS[0], "web", "n1"), Domain(UUIDS[1], "web", "n2")
    cluster.put(first)
    cluster.put(second)
    assert cluster.by_name("web") is first
    assert list(cluster.domains()) == [first, second]
    cluster.put(first.with_(name="old"))
    assert cluster.by_name("web") is second
    assert cluster.by_name("old").uuid == first.uuid


def test_a_look_up_that_fails_says_what_was_asked_for() -> None:
    cluster = a_cluster()
    uuid = uuids.UUID("12345678-9abc-def0-1234-56789abcdef0")
    with pytest.raises(DomainNotFound, match="matching uuid '12345678-9abc-def0-1234-56789abcdef0'"):
        cluster.by_uuid(uuid.bytes)
    with pytest.raises(DomainNotFound, match="matching name 'web'"):
        cluster.by_name("web")
    with pytest.raises(DomainNotFound, match="matching id 7"):
        cluster.by_id(7)
    with pytest.raises(NodeNotFound, match="no node named 'n9'; known: none"):
        cluster.node("n9")
    for name in ("n2", "n1"):
        cluster.put_node(Node(name, 0))
    with pytest.raises(NodeNotFound, match="known: n1, n2"):
        cluster.node("n9")


def test_an_inactive_domain_is_not_found_by_the_number_that_says_so() -> None:
    cluster = a_cluster()
    cluster.put(Domain(UUIDS[0], "web", "n1"))
    with pytest.raises(DomainNotFound):
        cluster.by_id(-1)


@given(st.uuids())
def test_a_uuid_is_written_as_everybody_writes_it(uuid: uuids.UUID) -> None:
    assert format_uuid(uuid.bytes) == str(uuid)


def test_the_model_does_not_speak_for_a_domain_while_a_call_may_change_it() -> None:
    cluster = a_cluster()
    assert cluster.fresh(UUIDS[0])
    cluster.begin(UUIDS[0])
    cluster.begin(UUIDS[0])
    cluster.end(UUIDS[0])
    assert not cluster.fresh(UUIDS[0])
    assert cluster.fresh(UUIDS[1])
    cluster.end(UUIDS[0])
    assert cluster.fresh(UUIDS[0])
    cluster.end(UUIDS[0])
    cluster.begin(UUIDS[0])
    assert not cluster.fresh(UUIDS[0]), "an end too many must not hide the next call"


def test_the_model_does_not_speak_for_a_domain_between_an_event_and_the_report() -> None:
    cluster = a_cluster()
    cluster.put(Domain(UUIDS[0], "web", "n1"))
    cluster.mark_stale(UUIDS[0])
    cluster.begin(UUIDS[0])
    cluster.mark_fresh([UUIDS[0], UUIDS[1]])
    assert not cluster.fresh(UUIDS[0])
    cluster.end(UUIDS[0])
    assert cluster.fresh(UUIDS[0])
    cluster.mark_stale(UUIDS[0])
    cluster.drop(UUIDS[0])
    assert cluster.fresh(UUIDS[0]), "a new domain of that uuid starts afresh"


@pytest.mark.parametrize("admin", list(Admin))
@pytest.mark.parametrize("link", list(Link))
def test_a_node_takes_domains_only_when_it_is_up_and_enabled(admin: Admin, link: Link) -> None:
    node = Node("n1", 0, admin=admin, link=link)
    assert node.usable == (link is Link.UP)
    assert node.open == (link is Link.UP and admin is Admin.ENABLED)


def test_the_version_rises_with_facts_of_a_node_and_not_with_its_figures() -> None:
    cluster = a_cluster()
    node = Node("n1", 1, host=Host(memory=1024))
    versions = [cluster.version]
    for changed in (
        node,
        replace(node, host=Host(memory=2048)),
        replace(node, link=Link.UP),
        replace(node, link=Link.UP, admin=Admin.DISABLED),
    ):
        cluster.put_node(changed)
        versions.append(cluster.version)
    assert versions == sorted(set(versions))
    host = Host()
    cluster.put_node(Node("n2", 0, host=host))
    version = cluster.version
    cluster.put_node(Node("n2", 0, host=host, figures=Figures(free_memory=5)))
    assert cluster.version == version
    assert [found.name for found in cluster.cells()] == ["n2", "n1"]
    cluster.drop_node("n2")
    assert cluster.version > version


def test_values_are_frozen_and_change_gives_a_new_one() -> None:
    domain = Domain(UUIDS[0], "web", "n1")
    started = domain.with_(id=4, state=RUNNING)
    assert (domain.active, started.active) == (False, True)
    with pytest.raises(FrozenInstanceError):
        domain.name = "db"  # type: ignore[misc]


def test_every_error_is_ours_and_says_what_it_is() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert all(issubclass(kind, errors.ClusterError) and kind.__doc__ for kind in kinds)
    assert errors.NodeError(b"\0", "").payload == b"\0"
    assert str(errors.NodeError(b"\0")) == "the node refused the call"
