"""Rows, reports and facts turned into the model's values.  Pure."""

from __future__ import annotations

from clusterhost.control import messages
from clusterhost.control.messages import DomainReport
from clusterhost.model.domain import SHUTOFF, Domain
from clusterhost.model.node import Figures, Host
from clusterhost.store.rows import DomainRow


def row_of(domain: Domain, xml: str) -> DomainRow:
    """What the store keeps of a domain."""
    return DomainRow(
        uuid=domain.uuid,
        name=domain.name,
        node=domain.node,
        id=domain.id,
        node_id=domain.node_id,
        generation=domain.generation,
        autostart=domain.autostart,
        persistent=domain.persistent,
        state=domain.state,
        xml=xml,
    )


def domain_of(row: DomainRow) -> Domain:
    """What the store knows of a domain."""
    return Domain(
        uuid=row.uuid,
        name=row.name,
        node=row.node,
        id=row.id,
        node_id=row.node_id,
        state=row.state,
        persistent=row.persistent,
        autostart=row.autostart,
        generation=row.generation,
    )


def merged(old: Domain | None, node: str, report: DomainReport, number: int) -> Domain:
    """The domain as its node reports it; autostart and generation are the cluster's."""
    return Domain(
        uuid=report.uuid,
        name=report.name,
        node=node,
        id=number,
        node_id=report.id,
        state=report.state if report.state or report.id != -1 else SHUTOFF,
        reason=report.reason,
        persistent=report.persistent,
        autostart=(old.autostart if old is not None else False) and report.persistent,
        managed_save=report.managed_save,
        max_memory=report.max_memory,
        memory=report.memory,
        vcpus=report.vcpus,
        os_type=report.os_type,
        generation=max(report.generation, old.generation if old is not None else 0),
    )


def host_of(facts: messages.NodeFacts, migration_address: str) -> Host:
    """Facts of a node; an address that the operator gave wins over the agent's."""
    return Host(
        hostname=facts.hostname,
        model=facts.model,
        memory=facts.memory_kib,
        cpus=facts.cpus,
        mhz=facts.mhz,
        numa_nodes=facts.nodes,
        sockets=facts.sockets,
        cores=facts.cores,
        threads=facts.threads,
        libvirt_version=facts.libvirt_version,
        hypervisor_version=facts.hypervisor_version,
        hypervisor_type=facts.hypervisor_type,
        capabilities=facts.capabilities,
        domain_capabilities=tuple(facts.domain_capabilities),
        uri=facts.uri,
        migration_address=migration_address or facts.migration_address,
        has_files=facts.has_files,
        underlay=facts.underlay,
        underlay_mtu=facts.underlay_mtu,
    )


def figures_of(stats: messages.NodeStats) -> Figures:
    """Figures of a node."""
    return Figures(free_memory=stats.free_memory, cpu=stats.cpu, memory=stats.memory)
