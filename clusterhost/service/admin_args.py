"""Arguments of the `clusterhost` command's calls: values as JSON has them, read with a refusal that names them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from clusterhost.model.domain import Domain
from clusterhost.model.errors import DomainNotFound, InvalidArgument
from clusterhost.service.ports import Progress
from clusterhost.service.world import World
from clusterhost.service.xml import parse_uuid

Args = dict[str, Any]
Method = Callable[[World, Args, Progress], Awaitable[object]]

WHO = "clusterhost command"


def text_of(args: Args, name: str, default: str | None = None) -> str:
    """A word; InvalidArgument where it is missing and there is no default."""
    value = args.get(name, default)
    if value is None and default is not None:
        return default
    if not isinstance(value, str) or (default is None and not value):
        raise InvalidArgument(f"'{name}' must be a word, found {value!r}")
    return value


def domain_named(world: World, given: str) -> Domain:
    """By name, uuid or id.  DomainNotFound."""
    cluster = world.cluster
    finders: list[Callable[[], Domain]] = [lambda: cluster.by_name(given)]
    if given.isdigit():
        finders.append(lambda: cluster.by_id(int(given)))
    if len(given.replace("-", "")) == 32:
        finders.append(lambda: cluster.by_uuid(parse_uuid(given)))
    for find in finders:
        try:
            return find()
        except DomainNotFound:
            continue
    raise DomainNotFound(f"no domain with the name, uuid or id '{given}'")
