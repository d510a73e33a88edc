"""Network filters and their bindings: wire to use case and back.  The work is in clusterhost.service.filters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clusterhost.frontend.libvirt import errors
from clusterhost.frontend.libvirt.route import Handler
from clusterhost.service.filter_bindings import Binding, FilterBindings
from clusterhost.service.filters import Filter, Filters
from compat.libvirt import messages
from compat.libvirt.constants import REMOTE_NWFILTER_BINDING_LIST_MAX, REMOTE_NWFILTER_LIST_MAX

if TYPE_CHECKING:
    from clusterhost.frontend.libvirt.session import Session

Ret = Any


def _filters(session: Session) -> Filters:
    return session.world.filters


def _bindings(session: Session) -> FilterBindings:
    return session.world.filter_bindings


def _handle(found: Filter) -> messages.RemoteNonnullNwfilter:
    return messages.RemoteNonnullNwfilter(found.name, found.uuid)


async def list_all(session: Session, args: Any) -> Ret:
    """CONNECT_LIST_ALL_NWFILTERS."""
    found = [_handle(each) for each in await _filters(session).all(args.flags)]
    if len(found) > REMOTE_NWFILTER_LIST_MAX:
        limit = REMOTE_NWFILTER_LIST_MAX
        raise errors.bad_count(f"Too many network filters '{len(found)}' for limit '{limit}'")
    return messages.RemoteConnectListAllNwfiltersRet(found if args.need_results else [], len(found))


async def count(session: Session, args: None) -> Ret:
    """CONNECT_NUM_OF_NWFILTERS."""
    return messages.RemoteConnectNumOfNwfiltersRet(len(await _filters(session).all()))


async def list_names(session: Session, args: Any) -> Ret:
    """CONNECT_LIST_NWFILTERS."""
    if args.maxnames > REMOTE_NWFILTER_LIST_MAX:
        raise errors.bad_count("maxnames > REMOTE_NWFILTER_LIST_MAX")
    names = [each.name for each in await _filters(session).all()]
    return messages.RemoteConnectListNwfiltersRet(names[: max(args.maxnames, 0)])


async def look_up_by_name(session: Session, args: Any) -> Ret:
    """NWFILTER_LOOKUP_BY_NAME."""
    found = await _filters(session).by_name(args.name)
    if found is None:
        return await _filters(session).ask_first("NWFILTER_LOOKUP_BY_NAME", args)
    return messages.RemoteNwfilterLookupByNameRet(_handle(found))


async def look_up_by_uuid(session: Session, args: Any) -> Ret:
    """NWFILTER_LOOKUP_BY_UUID."""
    found = await _filters(session).by_uuid(args.uuid)
    if found is None:
        return await _filters(session).ask_first("NWFILTER_LOOKUP_BY_UUID", args)
    return messages.RemoteNwfilterLookupByUuidRet(_handle(found))


async def get_xml(session: Session, args: Any) -> Ret:
    """NWFILTER_GET_XML_DESC."""
    found = await _filters(session).by_uuid(args.nwfilter.uuid)
    if found is None:
        return await _filters(session).ask_first("NWFILTER_GET_XML_DESC", args)
    return messages.RemoteNwfilterGetXmlDescRet(await _filters(session).xml(found, args.flags))


async def define(session: Session, args: Any) -> Ret:
    """NWFILTER_DEFINE_XML(_FLAGS)."""
    handle = await _filters(session).define(session.caller, args.xml, getattr(args, "flags", None))
    return messages.RemoteNwfilterDefineXmlRet(handle)


async def undefine(session: Session, args: Any) -> Ret:
    """NWFILTER_UNDEFINE."""
    found = await _filters(session).by_uuid(args.nwfilter.uuid)
    if found is None:
        return await _filters(session).ask_first("NWFILTER_UNDEFINE", args)
    return await _filters(session).undefine(session.caller, found)


async def list_bindings(session: Session, args: Any) -> Ret:
    """CONNECT_LIST_ALL_NWFILTER_BINDINGS."""
    found = [each.handle for each in await _bindings(session).all(args.flags)]
    if len(found) > REMOTE_NWFILTER_BINDING_LIST_MAX:
        limit = REMOTE_NWFILTER_BINDING_LIST_MAX
        raise errors.bad_count(f"Too many network filter bindings '{len(found)}' for limit '{limit}'")
    return messages.RemoteConnectListAllNwfilterBindingsRet(found if args.need_results else [], len(found))


async def look_up_binding(session: Session, args: Any) -> Ret:
    """NWFILTER_BINDING_LOOKUP_BY_PORT_DEV."""
    found = await _bindings(session).named(args.name)
    if found is None:
        return await _filters(session).ask_first("NWFILTER_BINDING_LOOKUP_BY_PORT_DEV", args)
    return messages.RemoteNwfilterBindingLookupByPortDevRet(found.handle)


async def get_binding_xml(session: Session, args: Any) -> Ret:
    """NWFILTER_BINDING_GET_XML_DESC."""
    found = await _binding(session, args)
    if found is None:
        return await _filters(session).ask_first("NWFILTER_BINDING_GET_XML_DESC", args)
    return messages.RemoteNwfilterBindingGetXmlDescRet(await _bindings(session).xml(found, args.flags))


async def create_binding(session: Session, args: Any) -> Ret:
    """NWFILTER_BINDING_CREATE_XML."""
    handle = await _bindings(session).create(args.xml, args.flags)
    return messages.RemoteNwfilterBindingCreateXmlRet(handle)


async def delete_binding(session: Session, args: Any) -> Ret:
    """NWFILTER_BINDING_DELETE."""
    found = await _binding(session, args)
    if found is None:
        return await _filters(session).ask_first("NWFILTER_BINDING_DELETE", args)
    return await _bindings(session).delete(found)


async def _binding(session: Session, args: Any) -> Binding | None:
    return await _bindings(session).named(args.nwfilter.portdev)


NWFILTERS: dict[str, Handler] = {
    "remote:CONNECT_LIST_ALL_NWFILTERS": list_all,
    "remote:CONNECT_NUM_OF_NWFILTERS": count,
    "remote:CONNECT_LIST_NWFILTERS": list_names,
    "remote:NWFILTER_LOOKUP_BY_NAME": look_up_by_name,
    "remote:NWFILTER_LOOKUP_BY_UUID": look_up_by_uuid,
    "remote:NWFILTER_GET_XML_DESC": get_xml,
    "remote:NWFILTER_DEFINE_XML": define,
    "remote:NWFILTER_DEFINE_XML_FLAGS": define,
    "remote:NWFILTER_UNDEFINE": undefine,
    "remote:CONNECT_LIST_ALL_NWFILTER_BINDINGS": list_bindings,
    "remote:NWFILTER_BINDING_LOOKUP_BY_PORT_DEV": look_up_binding,
    "remote:NWFILTER_BINDING_GET_XML_DESC": get_binding_xml,
    "remote:NWFILTER_BINDING_CREATE_XML": create_binding,
    "remote:NWFILTER_BINDING_DELETE": delete_binding,
}
"""Relayed in a node's view."""
