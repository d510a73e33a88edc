"""Errors at the wire: our words become libvirt's code, domain and sentence.  Alone in knowing its numbers."""

from __future__ import annotations

import msgspec

from clusterhost.model import errors as model
from clusterhost.model.errors import ClusterError
from compat.libvirt.constants import VirErrorDomain, VirErrorLevel, VirErrorNumber
from compat.libvirt.errors import XdrError
from compat.libvirt.messages.net import VirNetMessageError
from compat.libvirt.schema import Procedure

Number = VirErrorNumber
Domain = VirErrorDomain

SENTENCES: dict[type[ClusterError], tuple[VirErrorNumber, str]] = {
    model.DomainNotFound: (Number.ERR_NO_DOMAIN, "Domain not found: %s"),
    model.DomainExists: (Number.ERR_OPERATION_FAILED, "operation failed: %s"),
    model.NetworkNotFound: (Number.ERR_NO_NETWORK, "Network not found: %s"),
    model.NetworkPortNotFound: (Number.ERR_NO_NETWORK_PORT, "network port not found: %s"),
    model.NetworkExists: (Number.ERR_OPERATION_FAILED, "operation failed: %s"),
    model.NetworkRefused: (Number.ERR_CONFIG_UNSUPPORTED, "unsupported configuration: %s"),
    model.VolumeNotFound: (Number.ERR_NO_STORAGE_VOL, "Storage volume not found: %s"),
    model.VolumeExists: (Number.ERR_STORAGE_VOL_EXIST, "%s"),
    model.CloneExists: (Number.ERR_INTERNAL_ERROR, "internal error: %s"),
    model.PoolNotFound: (Number.ERR_NO_STORAGE_POOL, "Storage pool not found: %s"),
    model.StorageRefused: (Number.ERR_OPERATION_FAILED, "operation failed: %s"),
    model.NoMetadata: (Number.ERR_NO_NETWORK_METADATA, "metadata not found: %s"),
    model.NodeNotFound: (Number.ERR_SYSTEM_ERROR, "%s"),
    model.JobNotFound: (Number.ERR_INVALID_ARG, "invalid argument: %s"),
    model.NodeUnreachable: (Number.ERR_OPERATION_FAILED, "operation failed: %s"),
    model.DeadlinePassed: (Number.ERR_OPERATION_TIMEOUT, "Timed out during operation: %s"),
    model.NodeBusy: (Number.ERR_RESOURCE_BUSY, "resource busy: %s"),
    model.NoPlacement: (Number.ERR_OPERATION_FAILED, "operation failed: %s"),
    model.InvalidOperation: (Number.ERR_OPERATION_INVALID, "Requested operation is not valid: %s"),
    model.InvalidArgument: (Number.ERR_INVALID_ARG, "invalid argument: %s"),
    model.InvalidXml: (Number.ERR_XML_ERROR, "XML error: %s"),
    model.UnreadableXml: (Number.ERR_XML_ERROR, "XML error: %s"),
    model.ConfigUnsupported: (Number.ERR_CONFIG_UNSUPPORTED, "unsupported configuration: %s"),
    model.ReadOnly: (Number.ERR_OPERATION_DENIED, "operation forbidden: %s"),
    model.AccessDenied: (Number.ERR_ACCESS_DENIED, "access denied: %s"),
    model.Unsupported: (
        Number.ERR_NO_SUPPORT,
        "this function is not supported by the connection driver: %s",
    ),
    model.StoreUnavailable: (Number.ERR_OPERATION_FAILED, "operation failed: %s"),
    model.StaleGeneration: (Number.ERR_OPERATION_INVALID, "Requested operation is not valid: %s"),
    ClusterError: (Number.ERR_INTERNAL_ERROR, "internal error: %s"),
}
"""What each error of the model is called by libvirt; `%s` stands for our sentence.  A node out of reach is no
RPC error: clients take those for the loss of their own connection."""

OF_NETWORK: dict[str, tuple[VirErrorNumber, str]] = {
    "XmlMalformed": (Number.ERR_XML_DETAIL, "%s"),
    "XmlInvalid": (Number.ERR_XML_ERROR, "XML error: %s"),
    "XmlRefused": (Number.ERR_XML_ERROR, "XML error: %s"),
    "SchemaInvalid": (Number.ERR_XML_INVALID_SCHEMA, "XML document failed to validate against schema: %s"),
    "NameMissing": (Number.ERR_NO_NAME, "missing name information: %s"),
    "ConfigUnsupported": (Number.ERR_CONFIG_UNSUPPORTED, "unsupported configuration: %s"),
    "Exhausted": (Number.ERR_CONFIG_UNSUPPORTED, "unsupported configuration: %s"),
    "BadAddress": (Number.ERR_SYSTEM_ERROR, "%s"),
    "BadValue": (Number.ERR_INTERNAL_ERROR, "internal error: %s"),
    "Clash": (Number.ERR_OPERATION_FAILED, "operation failed: %s"),
    "InUse": (Number.ERR_INTERNAL_ERROR, "internal error: %s"),
    "BadArgument": (Number.ERR_INVALID_ARG, "invalid argument: %s"),
    "MetadataNotFound": (Number.ERR_NO_NETWORK_METADATA, "metadata not found: %s"),
    "OperationInvalid": (Number.ERR_OPERATION_INVALID, "Requested operation is not valid: %s"),
    "OperationUnsupported": (Number.ERR_OPERATION_UNSUPPORTED, "Operation not supported: %s"),
}
"""The same for netmgr's errors, by their names."""

OF_STORAGE: dict[str, tuple[VirErrorNumber, str]] = {
    "XmlMalformed": (Number.ERR_XML_DETAIL, "%s"),
    "XmlInvalid": (Number.ERR_XML_ERROR, "XML error: %s"),
    "XmlRefused": (Number.ERR_XML_ERROR, "XML error: %s"),
    "NameRefused": (Number.ERR_XML_ERROR, "XML error: %s"),
    "ConfigUnsupported": (Number.ERR_CONFIG_UNSUPPORTED, "unsupported configuration: %s"),
    "NotOfThisPool": (Number.ERR_NO_SUPPORT, SENTENCES[model.Unsupported][1]),
    "BadValue": (Number.ERR_INTERNAL_ERROR, "internal error: %s"),
    "SeedRefused": (Number.ERR_CONFIG_UNSUPPORTED, "unsupported configuration: %s"),
    "BadUnit": (Number.ERR_INVALID_ARG, "invalid argument: %s"),
    "TooLarge": (Number.ERR_OVERFLOW, "numerical overflow: %s"),
    "PathRefused": (Number.ERR_INVALID_ARG, "invalid argument: %s"),
    "Internal": (Number.ERR_INTERNAL_ERROR, "internal error: %s"),
}
"""The same for imagemgr's errors; whatever else it refuses is an operation that failed."""

OF_OBJECT: dict[str, VirErrorDomain] = {
    "snapshot": Domain.DOMAIN_SNAPSHOT,
    "checkpoint": Domain.DOMAIN_CHECKPOINT,
    "network": Domain.NETWORK,
    "network-port": Domain.NETWORK,
    "storage-pool": Domain.STORAGE,
    "storage-vol": Domain.STORAGE,
    "node-device": Domain.NODEDEV,
    "interface": Domain.INTERFACE,
    "secret": Domain.SECRET,
    "nwfilter": Domain.NWFILTER,
    "nwfilter-binding": Domain.NWFILTER,
    "admin": Domain.ADMIN,
    "auth": Domain.AUTH,
}
"""Class of a procedure -> error domain of its object; all others are about domains or the host."""

OF_EVENT_SOURCE = (
    ("CONNECT_NETWORK_", Domain.NETWORK),
    ("CONNECT_STORAGE_POOL_", Domain.STORAGE),
    ("CONNECT_NODE_DEVICE_", Domain.NODEDEV),
    ("CONNECT_SECRET_", Domain.SECRET),
    ("STORAGE_VOL_", Domain.STORAGE),
)
"""Registrations and volume streams have a class of their own; their name tells the object."""

WORDS = {
    word.upper(): word
    for word in (
        "XML", "OS", "ID", "UUID", "URI", "MAC", "CPU", "NWFilter", "NWFilters", "NMI", "PM", "FSTrim",
        "SCSI", "WWN", "FSFreeze", "FSThaw", "DHCP", "FD", "FSInfo", "IOThread", "SEV", "SSH",
    )
}  # fmt: skip
"""Words that libvirt's API writes otherwise than Capitalised."""

HOST_FUNCTIONS = {
    "NODE_GET_CPU_MAP": "virHostCPUGetMap",
    "NODE_GET_CPU_STATS": "virHostCPUGetStats",
    "NODE_GET_MEMORY_STATS": "virHostMemGetStats",
}
"""Calls whose flags are looked at by libvirt's host code."""

OF_PROGRAM = {"qemu": "Qemu", "lxc": "Lxc"}


class WireError(ClusterError):
    """An error that only this protocol has.  code, domain: libvirt's; form holds the sentence at `%s`."""

    where: tuple[str, str] | None = None
    """Function and argument, in the errors that libvirt fills so."""

    def __init__(self, code: VirErrorNumber, domain: VirErrorDomain, text: str, form: str = "%s") -> None:
        super().__init__(text)
        self.code = code
        self.domain = domain
        self.form = form


def api_name(procedure: Procedure) -> str:
    """The public function behind a procedure: `DOMAIN_GET_XML_DESC` -> `virDomainGetXMLDesc`."""
    # Registrations in callback form have no function of their own.
    name = procedure.name.replace("EVENT_CALLBACK_", "EVENT_")
    words = [WORDS.get(word, word.capitalize()) for word in name.split("_")]
    if procedure.program in OF_PROGRAM:
        words.insert(words.index("Domain") + 1, OF_PROGRAM[procedure.program])
    return "vir" + "".join(words)


def object_domain(procedure: Procedure) -> VirErrorDomain:
    """Where libvirt's API layer says that an error of this procedure comes from."""
    for prefix, domain in OF_EVENT_SOURCE:
        if procedure.name.startswith(prefix):
            return domain
    return OF_OBJECT.get(procedure.cls, Domain.DOMAIN)


def driver_domain(procedure: Procedure | None) -> VirErrorDomain:
    """Where libvirt's driver says it comes from: for domains that is the hypervisor driver."""
    domain = object_domain(procedure) if procedure is not None else Domain.DOMAIN
    return Domain.QEMU if domain is Domain.DOMAIN else domain


def read_only(procedure: Procedure) -> WireError:
    """A read-only connection asked for a change."""
    return denied(procedure, f"read only access prevents {api_name(procedure)}")


def secure_flag(procedure: Procedure) -> WireError:
    """A read-only connection asked for the security data in an XML."""
    return denied(procedure, f"{api_name(procedure)} with secure flag")


def denied(procedure: Procedure, text: str) -> WireError:
    """VIR_ERR_OPERATION_DENIED of the object."""
    return WireError(Number.ERR_OPERATION_DENIED, object_domain(procedure), text, "operation forbidden: %s")


def no_support(procedure: Procedure) -> WireError:
    """What clients fall back on: VIR_ERR_NO_SUPPORT of the object."""
    form = SENTENCES[model.Unsupported][1]
    return WireError(Number.ERR_NO_SUPPORT, object_domain(procedure), api_name(procedure), form)


def unknown_procedure(number: int) -> WireError:
    """Clients know this sentence, and take it for VIR_ERR_NO_SUPPORT."""
    return WireError(Number.ERR_RPC, Domain.RPC, f"unknown procedure: {number}")


def not_decoded(error: XdrError) -> WireError:
    """Arguments that are too short or outside the protocol's limits."""
    return WireError(Number.ERR_RPC, Domain.RPC, f"Unable to decode message payload: {error}")


def not_encoded(error: XdrError) -> WireError:
    """An answer that is larger than the protocol allows."""
    return WireError(Number.ERR_RPC, Domain.RPC, f"Unable to encode message payload: {error}")


def bad_count(text: str) -> WireError:
    """A list that the protocol cannot carry, or a length that is none."""
    return WireError(Number.ERR_RPC, Domain.RPC, text)


def not_open() -> WireError:
    """A call before CONNECT_OPEN."""
    return internal("hypervisor connection not open")


def already_open() -> WireError:
    """A second CONNECT_OPEN."""
    return internal("connection already open")


def argument(function: str, name: str, text: str) -> WireError:
    """A value that a helper of libvirt's host code refuses: it says where instead of a form."""
    error = WireError(Number.ERR_INVALID_ARG, Domain.NONE, text)
    error.where = (function, name)
    return error


def of_host(text: str) -> WireError:
    """VIR_ERR_INTERNAL_ERROR of libvirt's host code."""
    return WireError(Number.ERR_INTERNAL_ERROR, Domain.NONE, text, "internal error: %s")


def internal(text: str) -> WireError:
    """VIR_ERR_INTERNAL_ERROR of the RPC layer."""
    return WireError(Number.ERR_INTERNAL_ERROR, Domain.RPC, text, "internal error: %s")


def no_descriptors() -> WireError:
    """The client's connection carries none."""
    text = "fd passing is not supported by this connection"
    return WireError(Number.ERR_ARGUMENT_UNSUPPORTED, Domain.NONE, text, "argument unsupported: %s")


def no_descriptor_came() -> WireError:
    """The call needs one."""
    return internal("No FD available at slot 0")


def unknown_parameter(text: str) -> WireError:
    """A typed parameter that the call does not have."""
    return WireError(Number.ERR_ARGUMENT_UNSUPPORTED, Domain.NONE, text, "argument unsupported: %s")


def invalid_parameter(text: str) -> WireError:
    """A typed parameter that comes twice, or is of another type."""
    return WireError(Number.ERR_INVALID_ARG, Domain.NONE, text, "invalid argument: %s")


def no_driver(name: str) -> WireError:
    """The opened name is none of ours."""
    return WireError(Number.ERR_NO_CONNECT, Domain.NONE, name, "no connection driver available for %s")


def wrong_path(path: str) -> WireError:
    """The opened name is the hypervisor's, its path is not."""
    text = f"unexpected qemu URI path '{path}', try qemu:///system"
    return WireError(Number.ERR_INTERNAL_ERROR, Domain.NONE, text, "internal error: %s")


def invalid_mac(text: str) -> WireError:
    """A text where a MAC must stand."""
    return WireError(Number.ERR_INVALID_MAC, Domain.NETWORK, text, "invalid MAC address: %s")


def authentication_failed() -> WireError:
    """No such way to authenticate is offered."""
    text = "authentication failed"
    return WireError(Number.ERR_AUTH_FAILED, Domain.RPC, text, "authentication failed: %s")


def invalid_event(text: str) -> WireError:
    """A registration that exists, or does not."""
    return WireError(Number.ERR_INVALID_ARG, Domain.NONE, text, "invalid argument: %s")


def unsupported_event(number: int) -> WireError:
    """No event has that number."""
    return internal(f"unsupported event ID {number}")


def unsupported_flags(flags: int, procedure: Procedure) -> WireError:
    """Bits that no flag of the call has."""
    name, domain = HOST_FUNCTIONS.get(procedure.name), Domain.NONE
    if name is None:
        domain = driver_domain(procedure)
        # The driver says this, of its own function.
        name = api_name(procedure).replace("vir", "qemu" if domain is Domain.QEMU else "vir", 1)
    error = argument(name, "flags", f"unsupported flags (0x{flags:x}) in function {name}")
    error.domain = domain
    return error


def to_wire(error: Exception, procedure: Procedure | None = None) -> VirNetMessageError:
    """The error struct for any error of ours; a node's own error as it came."""
    if isinstance(error, model.NodeError):
        return from_node(error.payload)
    if isinstance(error, WireError):
        made = make(error.code, error.domain, str(error), error.form)
        if error.where is None:
            return made
        return msgspec.structs.replace(made, str1=error.where[0], str2=error.where[1], int1=0, int2=0)
    if isinstance(error, XdrError):
        return to_wire(not_decoded(error))
    if isinstance(error, model.NetworkRefused):
        code, form = OF_NETWORK.get(error.kind, SENTENCES[model.NetworkRefused])
        return make(code, Domain.NETWORK, str(error), form)
    if isinstance(error, model.StorageRefused):
        code, form = OF_STORAGE.get(error.kind, SENTENCES[model.StorageRefused])
        return make(code, Domain.STORAGE, str(error), form)
    code, form = next(
        (SENTENCES[kind] for kind in type(error).__mro__ if kind in SENTENCES), SENTENCES[ClusterError]
    )
    return make(code, driver_domain(procedure), str(error), form)


def from_node(payload: bytes) -> VirNetMessageError:
    """A libvirtd's own error; one that cannot be read is said to be so."""
    try:
        return VirNetMessageError.from_bytes(payload)
    except XdrError as error:
        return to_wire(internal(f"the node's error cannot be read: {error}"))


def make(code: VirErrorNumber, domain: VirErrorDomain, text: str, form: str) -> VirNetMessageError:
    """Fill the struct as libvirtd does: str1 is the form, str2 what stands at `%s`."""
    return VirNetMessageError(
        code=int(code),
        domain=int(domain),
        message=form.replace("%s", text, 1),
        level=int(VirErrorLevel.ERROR),
        dom=None,
        str1=form,
        str2=text,
        str3=None,
        int1=-1,
        int2=-1,
        net=None,
    )
