"""Block jobs and snapshots: the node's alone, but for bases that others need.  Wire to use case and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clusterhost.frontend.libvirt import errors
from clusterhost.frontend.libvirt.dispatch import finish
from clusterhost.frontend.libvirt.passthrough import relay_domain
from clusterhost.frontend.libvirt.route import Route, Run
from clusterhost.service.block_jobs import BlockJobs
from compat.libvirt import schema
from compat.libvirt.events import Call

if TYPE_CHECKING:
    from clusterhost.frontend.libvirt.session import Session


def run_changing(session: Session, call: Call, route: Route) -> None:
    """What is known of the images of the domain's disks is void from now on."""
    uuid = schema.domain_uuid(route.procedure, call.payload)
    session.world.storage.volumes.chains.changing(uuid)
    relay_domain(session, call, route)


def run_guarded(session: Session, call: Call, route: Route) -> None:
    """DOMAIN_BLOCK_COMMIT, DOMAIN_REVERT_TO_SNAPSHOT: they may write to a base."""
    if call.fds:
        raise errors.no_support(route.procedure)
    uuid = schema.domain_uuid(route.procedure, call.payload)
    jobs = BlockJobs(session.world.context, session.world.storage.volumes)
    use_case = jobs.commit if route.procedure.name == "DOMAIN_BLOCK_COMMIT" else jobs.revert
    work = use_case(session.caller, route.procedure, call.payload, uuid)
    session.spawn(call, work, lambda done: finish(session, call, route, done))


BLOCK_JOBS: dict[str, Run] = {
    **{
        f"remote:DOMAIN_{name}": run_changing
        for name in (
            "BLOCK_PULL",
            "BLOCK_REBASE",
            "BLOCK_COPY",
            "BLOCK_JOB_ABORT",
            "SNAPSHOT_CREATE_XML",
            "SNAPSHOT_DELETE",
        )
    },
    "remote:DOMAIN_BLOCK_COMMIT": run_guarded,
    "remote:DOMAIN_REVERT_TO_SNAPSHOT": run_guarded,
}
"""Rows of ROUTES, in both views."""
