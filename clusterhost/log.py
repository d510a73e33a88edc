"""Set up logging from the [log] settings: libvirtd's levels, filters and outputs.  Logs nothing."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO


@contextmanager
def _absent(name: str) -> Iterator[None]:
    before = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before


# Its console renderer, which nobody uses here, would load rich: 5 MB in every agent.
with _absent("rich"):
    import structlog

LEVELS = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}

# systemd's journal takes the priority of a line from its first characters (sd-daemon(3)).
_PRIORITIES = {logging.DEBUG: "<7>", logging.INFO: "<6>", logging.WARNING: "<4>", logging.ERROR: "<3>"}


class Settings(Protocol):
    """Levels and outputs (config.LogSection); an agent has them without that module."""

    @property
    def log_level(self) -> int: ...
    @property
    def log_filters(self) -> str: ...
    @property
    def log_outputs(self) -> str: ...


class _Journal(logging.StreamHandler[TextIO]):
    """Standard error with the priority in front, as systemd reads it."""

    def format(self, record: logging.LogRecord) -> str:
        return _PRIORITIES.get(record.levelno, "<3>") + super().format(record)


def configure(settings: Settings) -> None:
    """Send what structlog and the standard library log to the outputs named, each from its level on."""
    root = logging.getLogger()
    root.handlers = [_handler(word) for word in (settings.log_outputs or "1:stderr").split()]
    root.setLevel(LEVELS[settings.log_level])
    for word in settings.log_filters.split():
        level, _, name = word.partition(":")
        logging.getLogger(name).setLevel(LEVELS[int(level)])
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _handler(word: str) -> logging.Handler:
    level, _, target = word.partition(":")
    handler: logging.Handler
    if target.startswith("file:"):
        handler = logging.FileHandler(target.removeprefix("file:"))
    else:
        handler = (_Journal if target == "journald" else logging.StreamHandler)(sys.stderr)
    handler.setLevel(LEVELS[int(level)])
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.add_logger_name,
                structlog.stdlib.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.format_exc_info,
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "logger", "event"]),
            ],
        )
    )
    return handler
