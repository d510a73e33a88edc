"""Libvirt calls that use cases make on their own behalf at a node.  Knows messages; decides nothing."""

from __future__ import annotations

from clusterhost.control.messages import DomainReport
from clusterhost.model.domain import Domain
from clusterhost.model.errors import NodeError
from clusterhost.service.ports import Answer, Nodes
from compat.libvirt import messages
from compat.libvirt.errors import XdrError
from compat.libvirt.schema import BY_NAME, Procedure
from compat.libvirt.xdr import Message

XML_SECURE_MIGRATABLE = 1 | 8
XML_SECURE_INACTIVE = 1 | 2
"""VIR_DOMAIN_XML_SECURE with _MIGRATABLE, with _INACTIVE"""


def handle(domain: Domain) -> messages.RemoteNonnullDomain:
    """The domain as its node knows it."""
    return messages.RemoteNonnullDomain(name=domain.name, uuid=domain.uuid, id=domain.node_id)


def bare_handle(uuid: bytes, name: str = "") -> messages.RemoteNonnullDomain:
    """A handle by uuid alone (libvirtd looks at nothing else)."""
    return messages.RemoteNonnullDomain(name=name, uuid=uuid, id=-1)


def error_text(payload: bytes) -> str:
    """The sentence in an error struct."""
    try:
        return messages.VirNetMessageError.from_bytes(payload).message or "no reason given"
    except XdrError:
        return "an error that cannot be read"


class Virt:
    """Every method raises NodeError with libvirtd's own error, NodeUnreachable, DeadlinePassed."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes

    async def ask(self, node: str, name: str, args: Message | None, *, report: bytes | None = None) -> Answer:
        """One call of the remote program by name."""
        procedure = BY_NAME[f"remote:{name}"]
        payload = args.to_bytes() if args is not None else b""
        answer = await self._nodes.call(node, procedure.program_id, procedure.number, payload, report=report)
        if not answer.ok:
            raise NodeError(answer.payload, error_text(answer.payload))
        return answer

    async def pass_on(
        self, node: str, procedure: Procedure, payload: bytes, uuid: bytes, deadline: float | None
    ) -> Answer:
        """A client's call about a domain that may change it; its node's own answer, also a refusal."""
        return await self._nodes.call(
            node, procedure.program_id, procedure.number, payload, long=True, report=uuid, deadline=deadline
        )

    async def look(self, node: str, uuid: bytes, deadline: float | None = None) -> DomainReport | None:
        """The domain as that node has it now, None when it has none."""
        args = messages.RemoteDomainGetStateArgs(dom=bare_handle(uuid), flags=0)
        procedure = BY_NAME["remote:DOMAIN_GET_STATE"]
        answer = await self._nodes.call(
            node, procedure.program_id, procedure.number, args.to_bytes(), report=uuid, deadline=deadline
        )
        if answer.gone:
            return None
        if answer.report is None:
            raise NodeError(answer.payload, f"node {node} does not say what became of the domain")
        return answer.report

    async def inactive_xml(self, node: str, uuid: bytes) -> str:
        """The persistent definition with security data."""
        args = messages.RemoteDomainGetXmlDescArgs(dom=bare_handle(uuid), flags=XML_SECURE_INACTIVE)
        answer = await self.ask(node, "DOMAIN_GET_XML_DESC", args)
        return messages.RemoteDomainGetXmlDescRet.from_bytes(answer.payload).xml

    async def live_xml(self, node: str, uuid: bytes) -> str:
        """What runs, without security data."""
        args = messages.RemoteDomainGetXmlDescArgs(dom=bare_handle(uuid), flags=0)
        answer = await self.ask(node, "DOMAIN_GET_XML_DESC", args)
        return messages.RemoteDomainGetXmlDescRet.from_bytes(answer.payload).xml

    async def migratable_xml(self, node: str, uuid: bytes) -> str:
        """What runs, as another host can take it."""
        args = messages.RemoteDomainGetXmlDescArgs(dom=bare_handle(uuid), flags=XML_SECURE_MIGRATABLE)
        answer = await self.ask(node, "DOMAIN_GET_XML_DESC", args)
        return messages.RemoteDomainGetXmlDescRet.from_bytes(answer.payload).xml

    async def define(self, node: str, uuid: bytes, xml: str) -> None:
        """Make a definition there."""
        await self.ask(node, "DOMAIN_DEFINE_XML", messages.RemoteDomainDefineXmlArgs(xml=xml), report=uuid)

    async def set_autostart(self, node: str, uuid: bytes, on: bool) -> None:
        """The node's own flag."""
        args = messages.RemoteDomainSetAutostartArgs(dom=bare_handle(uuid), autostart=int(on))
        await self.ask(node, "DOMAIN_SET_AUTOSTART", args, report=uuid)

    async def resume(self, node: str, uuid: bytes) -> None:
        """Let it run on."""
        await self.ask(
            node, "DOMAIN_RESUME", messages.RemoteDomainResumeArgs(dom=bare_handle(uuid)), report=uuid
        )

    async def abort_job(self, node: str, uuid: bytes) -> None:
        """Stop what runs for long on it (a migration)."""
        await self.ask(node, "DOMAIN_ABORT_JOB", messages.RemoteDomainAbortJobArgs(dom=bare_handle(uuid)))

    async def job_progress(self, node: str, uuid: bytes) -> tuple[int, int]:
        """Bytes done and bytes in all of the job under way; (0, 0) when there is none."""
        args = messages.RemoteDomainGetJobStatsArgs(dom=bare_handle(uuid), flags=0)
        answer = await self.ask(node, "DOMAIN_GET_JOB_STATS", args)
        found = messages.RemoteDomainGetJobStatsRet.from_bytes(answer.payload)
        values = {param.field: param.value.value for param in found.params}
        done, total = values.get("data_processed", 0), values.get("data_total", 0)
        return (int(done), int(total))
