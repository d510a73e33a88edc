"""ROUTES against the schema, and the words of errors against the installed libvirt."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterhost.frontend.libvirt import errors, routes
from clusterhost.frontend.libvirt.handlers.domains import passes
from clusterhost.frontend.libvirt.handlers.session import view_of
from clusterhost.frontend.libvirt.route import Kind
from clusterhost.frontend.libvirt.routes import ROUTES
from clusterhost.frontend.libvirt.translate import Translator, handle_uuid, with_domain_id
from clusterhost.model import errors as model
from clusterhost.model.cluster import Cluster
from clusterhost.model.domain import Domain
from compat.libvirt import messages
from compat.libvirt.constants import VirConnectListAllDomainsFlags as Flag
from compat.libvirt.constants import VirErrorDomain, VirErrorNumber
from compat.libvirt.schema import PROCEDURES
from tools import generate_compat_doc

CALLS = [procedure for procedure in PROCEDURES.values() if procedure.kind == "call"]


def test_every_procedure_of_the_schema_has_exactly_one_row() -> None:
    assert set(ROUTES) == set(PROCEDURES)
    assert all(ROUTES[key].procedure is procedure for key, procedure in PROCEDURES.items())


def test_every_call_that_begins_with_a_domain_reaches_its_node_or_has_a_handler() -> None:
    left_out = {
        procedure.full_name
        for procedure in CALLS
        if procedure.domain_skip is not None
        and ROUTES[procedure.program_id, procedure.number].kind is Kind.UNSUPPORTED
    }
    assert left_out == {
        "remote:DOMAIN_FD_ASSOCIATE",
        "lxc:DOMAIN_OPEN_NAMESPACE",
    }


def test_domain_calls_are_many_and_relayed_raw() -> None:
    kinds = Counter(route.kind for route in ROUTES.values())
    assert kinds[Kind.DOMAIN] > 140
    assert kinds[Kind.EVENT] == 54 + 2


def test_every_name_in_the_tables_is_a_procedure() -> None:
    names = {procedure.full_name for procedure in CALLS}
    for table in (
        routes.SESSION,
        routes.CACHED_FAST,
        routes.CACHED,
        routes.FAN_OUT,
        routes.USE_CASES,
        routes.ANY_NODE,
        routes.UNSUPPORTED,
        routes.LONG,
        routes.CONDITIONAL,
        routes.HOST_ROUTES,
    ):
        assert set(table) <= names


def test_every_migration_step_is_the_use_case_of_migration() -> None:
    steps = [route for route in ROUTES.values() if route.procedure.cls == "migration"]
    assert len(steps) == 18
    for route in steps:
        assert (route.handler is routes.migrate.step) != (route.run is routes.run_tunnel)


def test_what_a_read_only_connection_may_not_do_is_guarded() -> None:
    for route in ROUTES.values():
        procedure = route.procedure
        if procedure.read_only == "denied" or procedure.name == "DOMAIN_DEL_THROTTLE_GROUP":
            assert route.guard is routes.deny, procedure.full_name
        elif procedure.read_only == "conditional":
            assert procedure.full_name in routes.CONDITIONAL


def test_api_names_in_errors_are_functions_of_the_installed_library() -> None:
    directory = Path("/usr/lib/x86_64-linux-gnu")
    libraries = [directory / f"libvirt{part}.so.0" for part in ("", "-qemu", "-lxc")]
    if not all(library.exists() for library in libraries):
        pytest.skip("libvirt's libraries are not where Debian puts them")
    symbols = b"".join(library.read_bytes() for library in libraries)
    for procedure in CALLS:
        if procedure.newer or procedure.cls in ("auth", "admin"):
            continue
        name = errors.api_name(procedure).replace("DomainEventDeregisterAny", "DomainEventDeregisterAny")
        assert b"\0" + name.encode() + b"\0" in symbols, name


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("remote:DOMAIN_SUSPEND", VirErrorDomain.DOMAIN),
        ("remote:DOMAIN_SNAPSHOT_NUM", VirErrorDomain.DOMAIN_SNAPSHOT),
        ("remote:DOMAIN_CHECKPOINT_DELETE", VirErrorDomain.DOMAIN_CHECKPOINT),
        ("remote:NETWORK_CREATE", VirErrorDomain.NETWORK),
        ("remote:CONNECT_LIST_ALL_STORAGE_POOLS", VirErrorDomain.STORAGE),
        ("remote:STORAGE_VOL_UPLOAD", VirErrorDomain.STORAGE),
        ("remote:NODE_DEVICE_LOOKUP_BY_NAME", VirErrorDomain.NODEDEV),
        ("remote:CONNECT_NETWORK_EVENT_REGISTER_ANY", VirErrorDomain.NETWORK),
        ("remote:CONNECT_GET_CAPABILITIES", VirErrorDomain.DOMAIN),
        ("remote:SECRET_GET_VALUE", VirErrorDomain.SECRET),
        ("remote:CONNECT_LIST_ALL_NWFILTERS", VirErrorDomain.NWFILTER),
        ("remote:INTERFACE_CREATE", VirErrorDomain.INTERFACE),
    ],
)
def test_what_is_not_built_says_no_support_of_the_object(name: str, domain: VirErrorDomain) -> None:
    procedure = next(one for one in CALLS if one.full_name == name)
    error = errors.to_wire(errors.no_support(procedure))
    assert (error.code, error.domain, error.level) == (VirErrorNumber.ERR_NO_SUPPORT, domain, 2)
    assert error.message is not None
    assert error.message.endswith(errors.api_name(procedure))


def test_every_error_of_the_model_has_a_sentence_at_the_wire() -> None:
    kinds = [
        kind
        for kind in vars(model).values()
        if isinstance(kind, type) and issubclass(kind, model.ClusterError) and kind is not model.NodeError
    ]
    for kind in kinds:
        assert kind in errors.SENTENCES
        message = errors.to_wire(kind("web has 512 MiB, 2048 are needed")).message
        assert message is not None
        assert message.endswith("web has 512 MiB, 2048 are needed")


def test_a_nodes_own_error_passes_unchanged() -> None:
    own = errors.make(VirErrorNumber.ERR_AGENT_UNRESPONSIVE, VirErrorDomain.QEMU, "no agent", "%s")
    assert errors.to_wire(model.NodeError(own.to_bytes())) == own


def test_an_error_with_a_percent_sign_in_it_keeps_it() -> None:
    message = errors.to_wire(model.DomainNotFound("no domain with matching name '%s%n'")).message
    assert message == "Domain not found: no domain with matching name '%s%n'"


@pytest.mark.parametrize("name", [None, "", "qemu:///system", "qemu:///system?", "qemu:///system?no_tty=1"])
def test_the_cluster_is_opened_by(name: str | None) -> None:
    assert view_of(name) is None


def test_a_node_is_opened_by_its_name_in_the_query() -> None:
    assert view_of("qemu:///system?node=n2") == "n2"
    assert view_of("qemu:///system?x=1&node=n%202") == "n 2"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("test:///default", VirErrorNumber.ERR_NO_CONNECT),
        ("lxc:///", VirErrorNumber.ERR_NO_CONNECT),
        ("qemu://other/system", VirErrorNumber.ERR_NO_CONNECT),
        ("qemu:///session", VirErrorNumber.ERR_INTERNAL_ERROR),
        ("qemu:///", VirErrorNumber.ERR_INTERNAL_ERROR),
        ("http://[", VirErrorNumber.ERR_NO_CONNECT),
        ("nonsense", VirErrorNumber.ERR_NO_CONNECT),
    ],
)
def test_other_names_are_refused_as_libvirtd_does(name: str, code: VirErrorNumber) -> None:
    with pytest.raises(errors.WireError) as refused:
        view_of(name)
    assert refused.value.code is code


# -- translation


def xml_payload(text: str) -> bytes:
    return messages.RemoteDomainGetXmlDescRet(xml=text).to_bytes()


@pytest.mark.parametrize(
    ("before", "number", "after"),
    [
        (
            "<domain type='kvm' id='7'>\n  <name>a</name>",
            1001,
            "<domain type='kvm' id='1001'>\n  <name>a</name>",
        ),
        (
            "<domain type='kvm'>\n  <name id='7'>a</name>",
            1001,
            "<domain type='kvm'>\n  <name id='7'>a</name>",
        ),
        ("<domain type='kvm' id='7' xmlns:q='u'>x", -1, "<domain type='kvm' xmlns:q='u'>x"),
        ("<!-- id='9' -->\n<domain id='7' type='kvm'>", 8, "<!-- id='9' -->\n<domain id='8' type='kvm'>"),
        (
            "<domainsnapshot><domain id='7'/></domainsnapshot>",
            8,
            "<domainsnapshot><domain id='8'/></domainsnapshot>",
        ),
        ("<notadomain id='7'/>", 8, "<notadomain id='7'/>"),
    ],
)
def test_only_the_id_in_a_domains_first_tag_changes(before: str, number: int, after: str) -> None:
    assert with_domain_id(xml_payload(before), number) == xml_payload(after)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=200), st.integers(0, 2**31 - 1))
def test_what_follows_the_first_tag_is_byte_for_byte_the_same(rest: str, number: int) -> None:
    before = f"<domain type='qemu' id='3'>{rest}"
    assert with_domain_id(xml_payload(before), number) == xml_payload(
        f"<domain type='qemu' id='{number}'>{rest}"
    )


@given(st.text(max_size=50), st.binary(min_size=16, max_size=16), st.integers(-1, 2**31 - 1))
def test_a_packed_handle_is_what_compat_packs(name: str, uuid: bytes, number: int) -> None:
    name = name.encode("utf-8", "ignore").decode()
    cluster = Cluster(b"c" * 16, "c", "c")
    domain = Domain(uuid, name, "n1", id=number)
    cluster.put(domain)
    translator = Translator(cluster)
    expected = messages.RemoteNonnullDomain(name=name, uuid=uuid, id=number).to_bytes()
    assert translator.handle(domain) == expected
    assert translator.handle(domain) is translator.handle(domain)
    assert handle_uuid(expected) == uuid
    renamed = domain.with_(known_as="other@n1")
    assert translator.handle(renamed) == messages.RemoteNonnullDomain("other@n1", uuid, number).to_bytes()


# -- filters


domains = st.builds(
    Domain,
    uuid=st.just(b"u" * 16),
    name=st.just("d"),
    node=st.just("n1"),
    id=st.sampled_from([-1, 5]),
    state=st.integers(0, 7),
    persistent=st.booleans(),
    autostart=st.booleans(),
    managed_save=st.booleans(),
)
PAIRS = [
    (Flag.ACTIVE, Flag.INACTIVE),
    (Flag.PERSISTENT, Flag.TRANSIENT),
    (Flag.MANAGEDSAVE, Flag.NO_MANAGEDSAVE),
    (Flag.AUTOSTART, Flag.NO_AUTOSTART),
]


@given(domains)
def test_each_group_of_filters_divides_the_domains(domain: Domain) -> None:
    for one, other in PAIRS:
        assert passes(domain, one) != passes(domain, other)
        assert passes(domain, one | other)
    states = [Flag.RUNNING, Flag.PAUSED, Flag.SHUTOFF, Flag.OTHER]
    assert sum(passes(domain, state) for state in states) == 1
    assert passes(domain, 0)


@given(domains, st.sets(st.sampled_from(list(Flag)[:12])))
def test_filters_of_different_groups_are_all_needed(domain: Domain, flags: set[Flag]) -> None:
    bits = sum(flags)
    if not passes(domain, bits):
        assert any(not passes(domain, sum(flags & set(group))) for group in [*PAIRS, list(Flag)[4:8]])


def test_the_compatibility_document_is_fresh() -> None:
    assert generate_compat_doc.stale() == []
