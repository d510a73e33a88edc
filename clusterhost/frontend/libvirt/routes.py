"""ROUTES: one row for every procedure of the schema, and what read-only connections may not do.  A table."""

from __future__ import annotations

from collections.abc import Iterator

from clusterhost.frontend.libvirt import displays, errors
from clusterhost.frontend.libvirt.dispatch import (
    run_any_node,
    run_close,
    run_event,
    run_fast,
    run_struct,
    run_unsupported,
    run_use_case,
)
from clusterhost.frontend.libvirt.handlers import define, domains, events, migrate, session, stats
from clusterhost.frontend.libvirt.handlers.block_jobs import BLOCK_JOBS
from clusterhost.frontend.libvirt.handlers.host import HOST_ROUTES
from clusterhost.frontend.libvirt.handlers.leases import GUESTS, run_leases
from clusterhost.frontend.libvirt.handlers.networks import NETWORKS
from clusterhost.frontend.libvirt.handlers.nwfilters import NWFILTERS
from clusterhost.frontend.libvirt.handlers.pinning import PINNING
from clusterhost.frontend.libvirt.handlers.pools import POOLS
from clusterhost.frontend.libvirt.handlers.saves import SAVES
from clusterhost.frontend.libvirt.handlers.volumes import VOLUMES, run_volume_stream
from clusterhost.frontend.libvirt.passthrough import relay_domain, relay_view
from clusterhost.frontend.libvirt.route import Guard, Handler, Kind, Route, Routes, Run
from clusterhost.frontend.libvirt.streams import run_domain_stream, run_tunnel, run_view_stream
from compat.libvirt.constants import (
    VirDomainCheckpointXMLFlags,
    VirDomainInterfaceAddressesSource,
    VirDomainSaveImageXMLFlags,
    VirDomainSnapshotXMLFlags,
    VirDomainVcpuFlags,
    VirDomainXMLFlags,
)
from compat.libvirt.schema import PROCEDURES, Procedure

SESSION: dict[str, Handler] = {
    "remote:AUTH_LIST": session.auth_list,
    "remote:AUTH_SASL_INIT": session.auth_refused,
    "remote:AUTH_SASL_START": session.auth_refused,
    "remote:AUTH_SASL_STEP": session.auth_refused,
    "remote:AUTH_POLKIT": session.auth_refused,
    "remote:CONNECT_OPEN": session.open_connection,
    "remote:CONNECT_SUPPORTS_FEATURE": session.supports_feature,
    "remote:CONNECT_SET_IDENTITY": session.set_identity,
    "remote:CONNECT_GET_URI": session.get_uri,
    "remote:CONNECT_IS_SECURE": session.is_secure,
    "remote:CONNECT_REGISTER_CLOSE_CALLBACK": session.register_close_callback,
    "remote:CONNECT_UNREGISTER_CLOSE_CALLBACK": session.unregister_close_callback,
    "remote:CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY": events.register,
    "remote:CONNECT_DOMAIN_EVENT_CALLBACK_DEREGISTER_ANY": events.deregister,
    "remote:CONNECT_DOMAIN_EVENT_REGISTER": events.register_lifecycle,
    "remote:CONNECT_DOMAIN_EVENT_DEREGISTER": events.deregister_lifecycle,
    "remote:CONNECT_DOMAIN_EVENT_REGISTER_ANY": events.register_any,
    "remote:CONNECT_DOMAIN_EVENT_DEREGISTER_ANY": events.deregister_any,
    "remote:CONNECT_NETWORK_EVENT_REGISTER_ANY": events.register_network,
    "remote:CONNECT_NETWORK_EVENT_DEREGISTER_ANY": events.deregister_network,
    "qemu:CONNECT_DOMAIN_MONITOR_EVENT_REGISTER": events.register_monitor,
    "qemu:CONNECT_DOMAIN_MONITOR_EVENT_DEREGISTER": events.deregister_monitor,
}

POOL_EVENTS: dict[str, Handler] = {
    "remote:CONNECT_STORAGE_POOL_EVENT_REGISTER_ANY": events.register_pool,
    "remote:CONNECT_STORAGE_POOL_EVENT_DEREGISTER_ANY": events.deregister_pool,
}
"""Of the cluster's pools; what happens to a node's own is told by its libvirtd alone."""

CACHED_FAST: dict[str, Handler] = {
    "remote:DOMAIN_LOOKUP_BY_NAME": domains.lookup_by_name,
    "remote:DOMAIN_LOOKUP_BY_UUID": domains.lookup_by_uuid,
    "remote:DOMAIN_LOOKUP_BY_ID": domains.lookup_by_id,
    "remote:DOMAIN_GET_STATE": domains.get_state,
    "remote:DOMAIN_GET_INFO": domains.get_info,
    "remote:DOMAIN_GET_XML_DESC": domains.get_xml_desc,
    "remote:DOMAIN_IS_ACTIVE": domains.is_active,
    "remote:DOMAIN_IS_PERSISTENT": domains.is_persistent,
    "remote:DOMAIN_HAS_MANAGED_SAVE_IMAGE": domains.has_managed_save_image,
    "remote:DOMAIN_GET_AUTOSTART": domains.get_autostart,
    "remote:CONNECT_NUM_OF_DOMAINS": domains.num_of_domains,
    "remote:CONNECT_NUM_OF_DEFINED_DOMAINS": domains.num_of_defined_domains,
}

CACHED: dict[str, Handler] = {
    "remote:CONNECT_LIST_ALL_DOMAINS": domains.list_all_domains,
    "remote:CONNECT_LIST_DOMAINS": domains.list_domains,
    "remote:CONNECT_LIST_DEFINED_DOMAINS": domains.list_defined_domains,
}

FAN_OUT: dict[str, Handler] = {"remote:CONNECT_GET_ALL_DOMAIN_STATS": stats.get_all_domain_stats}

USE_CASES: dict[str, Handler] = {
    "remote:DOMAIN_DEFINE_XML": define.define,
    "remote:DOMAIN_DEFINE_XML_FLAGS": define.define,
    "remote:DOMAIN_CREATE_XML": define.create_xml,
    "remote:DOMAIN_CREATE_XML_WITH_FILES": define.create_xml,
    "remote:DOMAIN_CREATE": define.start,
    "remote:DOMAIN_CREATE_WITH_FLAGS": define.start,
    "remote:DOMAIN_CREATE_WITH_FILES": define.start,
    "remote:DOMAIN_UNDEFINE": define.undefine,
    "remote:DOMAIN_UNDEFINE_FLAGS": define.undefine,
    "remote:DOMAIN_RENAME": define.rename,
    "remote:DOMAIN_RESTORE": define.restore,
    "remote:DOMAIN_RESTORE_FLAGS": define.restore,
    "remote:DOMAIN_RESTORE_PARAMS": define.restore,
    "remote:DOMAIN_SAVE_IMAGE_GET_XML_DESC": define.save_image,
    "remote:DOMAIN_SAVE_IMAGE_DEFINE_XML": define.save_image,
    "remote:DOMAIN_SET_AUTOSTART": define.set_autostart,
}

ANY_NODE = frozenset(
    {
        "remote:CONNECT_DOMAIN_XML_FROM_NATIVE",
        "remote:CONNECT_DOMAIN_XML_TO_NATIVE",
    }
)

UNSUPPORTED = frozenset(
    {
        "remote:DOMAIN_FD_ASSOCIATE",
        "lxc:DOMAIN_OPEN_NAMESPACE",
        "qemu:DOMAIN_ATTACH",
    }
)
"""Descriptors of files cannot travel to another machine; a process id names nothing there."""

DISPLAYS: dict[str, Run] = {
    "remote:DOMAIN_OPEN_GRAPHICS": displays.open_display,
    "remote:DOMAIN_OPEN_GRAPHICS_FD": displays.open_display_fd,
}

OF_A_NODE = frozenset(
    {
        "network", "network-port", "storage-pool", "storage-vol", "node-device", "interface", "secret",
        "nwfilter", "nwfilter-binding",
    }
)  # fmt: skip
"""Classes that are a node's own affair: relayed in its view, not built yet in the cluster's."""

OF_A_DOMAIN = frozenset({"domain", "snapshot", "checkpoint"})

LONG = frozenset(
    f"remote:DOMAIN_{name}"
    for name in (
        "SAVE", "SAVE_FLAGS", "SAVE_PARAMS", "MANAGED_SAVE", "CORE_DUMP", "CORE_DUMP_WITH_FORMAT",
        "CREATE", "CREATE_WITH_FLAGS", "CREATE_WITH_FILES", "DESTROY", "DESTROY_FLAGS", "SHUTDOWN",
        "SHUTDOWN_FLAGS", "REBOOT", "RESET", "SNAPSHOT_CREATE_XML", "REVERT_TO_SNAPSHOT",
        "SNAPSHOT_DELETE", "CHECKPOINT_CREATE_XML", "CHECKPOINT_DELETE", "FSFREEZE", "FSTHAW", "FSTRIM",
        "GET_FSINFO", "GET_GUEST_INFO", "SET_USER_PASSWORD", "GET_TIME", "SET_TIME", "GET_HOSTNAME",
        "GET_GUEST_VCPUS", "SET_GUEST_VCPUS", "AUTHORIZED_SSH_KEYS_GET", "AUTHORIZED_SSH_KEYS_SET",
        "INTERFACE_ADDRESSES", "PM_SUSPEND_FOR_DURATION", "PM_WAKEUP", "BACKUP_BEGIN",
        "BLOCK_JOB_ABORT", "BLOCK_COMMIT", "BLOCK_COPY", "BLOCK_PULL", "BLOCK_REBASE", "BLOCK_RESIZE",
        "SET_VCPUS", "SET_VCPUS_FLAGS", "SET_VCPU", "ATTACH_DEVICE", "ATTACH_DEVICE_FLAGS",
        "DETACH_DEVICE", "DETACH_DEVICE_FLAGS", "DETACH_DEVICE_ALIAS", "UPDATE_DEVICE_FLAGS",
        "MEMORY_PEEK", "RESUME",
    )
) | {
    "remote:STORAGE_VOL_CREATE_XML",
    "remote:STORAGE_VOL_CREATE_XML_FROM",
    "remote:STORAGE_VOL_DELETE",
    "remote:STORAGE_VOL_RESIZE",
    "remote:STORAGE_VOL_WIPE",
    "remote:STORAGE_VOL_WIPE_PATTERN",
    "qemu:DOMAIN_AGENT_COMMAND",
    "qemu:DOMAIN_MONITOR_COMMAND",
    "qemu:DOMAIN_MONITOR_COMMAND_WITH_FILES",
}  # fmt: skip
"""Calls that wait for a guest, an agent in it, or a disk."""

BEFORE_OPEN = frozenset({"CONNECT_OPEN", "CONNECT_CLOSE", "CONNECT_SUPPORTS_FEATURE"})

ONLY_READS = ("_GET_", "_PEEK", "_HAS_", "_LIST_", "_NUM")
"""Parts of names of calls that are denied to read-only connections though they change nothing."""

SNAPSHOT_SECURE = VirDomainSnapshotXMLFlags.DOMAIN_SNAPSHOT_XML_SECURE
SAVE_SECURE = VirDomainSaveImageXMLFlags.DOMAIN_SAVE_IMAGE_XML_SECURE
XML_SECURE = VirDomainXMLFlags.SECURE | VirDomainXMLFlags.MIGRATABLE

CONDITIONAL: dict[str, tuple[str, int, bool]] = {
    "remote:DOMAIN_GET_XML_DESC": ("flags", XML_SECURE, True),
    "remote:DOMAIN_SNAPSHOT_GET_XML_DESC": ("flags", SNAPSHOT_SECURE, True),
    "remote:DOMAIN_CHECKPOINT_GET_XML_DESC": ("flags", VirDomainCheckpointXMLFlags.SECURE, True),
    "remote:DOMAIN_MANAGED_SAVE_GET_XML_DESC": ("flags", SAVE_SECURE, True),
    "remote:DOMAIN_GET_VCPUS_FLAGS": ("flags", VirDomainVcpuFlags.GUEST, False),
    "remote:DOMAIN_INTERFACE_ADDRESSES": ("source", VirDomainInterfaceAddressesSource.AGENT, False),
}
"""Member of the arguments, bits denied to read-only connections, whether libvirt speaks of a secure flag."""


def deny(procedure: Procedure, payload: bytes) -> None:
    """Guard of what read-only connections may never do."""
    raise errors.read_only(procedure)


def deny_some(procedure: Procedure, payload: bytes) -> None:
    """Guard of what they may do without certain flags.  The arguments are decoded: bytes may follow them."""
    member, bits, secure = CONDITIONAL[procedure.full_name]
    kind = procedure.args
    if kind is not None and getattr(kind.from_bytes(payload), member) & bits:
        raise errors.secure_flag(procedure) if secure else errors.read_only(procedure)


def guard_of(procedure: Procedure) -> Guard | None:
    """What a read-only connection meets.  The facts' `read_only`, and the one guard that libvirt forgot."""
    if procedure.read_only == "denied" or "no-read-only-guard-upstream-though-it-writes" in procedure.tags:
        return deny
    return deny_some if procedure.read_only == "conditional" else None


def answered(procedure: Procedure) -> tuple[Kind, Run, Run, Handler | None]:
    """Kind, how it is answered in the cluster's view, how in a node's, and by which handler."""
    name = procedure.full_name
    for kind, table, run, in_view in (
        (Kind.SESSION, SESSION, run_struct, run_struct),
        (Kind.SESSION, POOL_EVENTS, run_struct, run_unsupported),
        (Kind.CACHED, CACHED_FAST, run_fast, run_fast),
        (Kind.CACHED, CACHED, run_struct, run_struct),
        (Kind.FAN_OUT, FAN_OUT, run_struct, run_struct),
        (Kind.CLUSTER, USE_CASES, run_use_case, run_use_case),
        (Kind.CLUSTER, NWFILTERS, run_struct, relay_view),
        (Kind.CLUSTER, POOLS, run_struct, relay_view),
        (Kind.CLUSTER, VOLUMES, run_struct, relay_view),
    ):
        if name in table:
            return kind, run, in_view, table[name]
    if name in HOST_ROUTES:
        host_kind, handler = HOST_ROUTES[name]
        return Kind(host_kind), run_struct, relay_view, handler
    if name in PINNING:
        return Kind.CLUSTER, run_struct, relay_domain, PINNING[name]
    if name in (watched := GUESTS | BLOCK_JOBS | SAVES):
        return Kind.DOMAIN, watched[name], watched[name], None
    if name in NETWORKS:
        in_view = run_leases if name == "remote:NETWORK_GET_DHCP_LEASES" else relay_view
        return Kind.CLUSTER, run_struct, in_view, NETWORKS[name]
    if name in ANY_NODE:
        return Kind.NODE, run_any_node, relay_view, None
    return *by_class(procedure), None


def by_class(procedure: Procedure) -> tuple[Kind, Run, Run]:
    """The rows that need no handler."""
    if procedure.kind == "event":
        return Kind.EVENT, run_event, run_event
    if procedure.full_name in DISPLAYS:
        return Kind.DOMAIN, DISPLAYS[procedure.full_name], DISPLAYS[procedure.full_name]
    if procedure.full_name in UNSUPPORTED:
        return Kind.UNSUPPORTED, run_unsupported, run_unsupported
    if procedure.full_name == "remote:CONNECT_CLOSE":
        return Kind.SESSION, run_close, run_close
    if procedure.cls == "migration" and procedure.stream is not None:
        return Kind.CLUSTER, run_tunnel, run_tunnel
    if procedure.stream is not None:
        if procedure.domain_skip is not None:
            return Kind.DOMAIN, run_domain_stream, run_domain_stream
        return Kind.CLUSTER, run_volume_stream, run_view_stream
    if procedure.cls in OF_A_DOMAIN:
        return Kind.DOMAIN, relay_domain, relay_domain
    if procedure.cls in OF_A_NODE:
        return Kind.NODE, run_unsupported, relay_view
    return Kind.UNSUPPORTED, run_unsupported, run_unsupported


def row(procedure: Procedure) -> Route:
    """The row of one procedure."""
    kind, run, run_in_view, handler = answered(procedure)
    if procedure.cls == "migration" and procedure.stream is None:
        kind, run, run_in_view, handler = Kind.CLUSTER, run_use_case, run_use_case, migrate.step
    guard = guard_of(procedure)
    return Route(
        procedure=procedure,
        kind=kind,
        run=run,
        run_in_view=run_in_view,
        handler=handler,
        guard=guard,
        mutating=guard is deny and not any(part in procedure.name for part in ONLY_READS),
        long=procedure.full_name in LONG or procedure.cls == "migration",
        rewrite=any(handle.kind == "domain" for handle in procedure.ret_handles),
        xml_id="xml-has-domain-id" in procedure.tags,
        before_open=procedure.cls == "auth" or procedure.name in BEFORE_OPEN,
    )


def rows() -> Iterator[Route]:
    """All rows, by program and number."""
    for key in sorted(PROCEDURES):
        yield row(PROCEDURES[key])


ROUTES: Routes = {(route.procedure.program_id, route.procedure.number): route for route in rows()}
