"""How the command fails: one sentence on standard error, and an exit code by kind.  Knows no command."""

from __future__ import annotations

from typing import IO, Any

import click

FAILED = 1
USAGE = 2
NOT_FOUND = 3
NO_FRONT_END = 4
TRY_AGAIN = 5

EXIT_CODES = {
    "NodeNotFound": NOT_FOUND,
    "DomainNotFound": NOT_FOUND,
    "NetworkNotFound": NOT_FOUND,
    "JobNotFound": NOT_FOUND,
    "PoolNotFound": NOT_FOUND,
    "VolumeNotFound": NOT_FOUND,
    "InvalidArgument": USAGE,
    "NodeUnreachable": TRY_AGAIN,
    "NodeBusy": TRY_AGAIN,
    "DeadlinePassed": TRY_AGAIN,
    "StoreUnavailable": TRY_AGAIN,
    "StoreInUse": FAILED,
    "StoreDamaged": FAILED,
    "Superseded": FAILED,
}
"""Kind of error (class names of model.errors and store.errors) -> exit code; FAILED for any other."""


class Failure(click.ClickException):
    """Ends the command with its sentence and exit code."""

    def __init__(self, text: str, exit_code: int = FAILED) -> None:
        super().__init__(text)
        # click declares the code of a class; ours differs from one error to the next.
        vars(self)["exit_code"] = exit_code

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"error: {self.message}", file=file, err=True)


def failure(kind: str, text: str) -> Failure:
    """The failure for an error of the front end."""
    return Failure(text, EXIT_CODES.get(kind, FAILED))
