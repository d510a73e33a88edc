"""Agents that run beside the front end, for nodes that are reached by a remote libvirt URI: started and kept
alive."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from pathlib import Path

import structlog

STOP_GRACE = 5.0
"""Seconds an agent gets to end by itself."""
RESTART_DELAYS = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds until it is started again, after each end in a row."""

_PROGRAM = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv.pop(1)):
    sys.exit("the front end is gone")
from clusterhost.cli.main import main
main()
"""
"""The agent ends with the front end, also when that is killed (PR_SET_PDEATHSIG is 1): the next one starts
its own."""

log = structlog.get_logger("clusterhost.agents")


class Agents:
    """One subprocess a node; its files are in STATE_DIR/agents/NAME."""

    def __init__(self, state_dir: Path) -> None:
        self._home = state_dir / "agents"
        self._keepers: dict[str, asyncio.Task[None]] = {}

    def start(self, node: str, uri: str, control: str, bulk: str, server_key: str, token: str) -> None:
        """Write its configuration (with the token when it is new) and keep it running."""
        directory = self._home / node
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        config = directory / "agent.toml"
        lines = [
            "[agent]",
            f'node = "{node}"',
            f"uri = {_quoted(uri)}",
            f'control = "{control}"',
            f'bulk = "{bulk}"',
            f"state_dir = {_quoted(str(directory))}",
            f"peer_dir = {_quoted(str(directory / 'peers'))}",
            f"server_key = '{server_key}'",
            f'token = "{token}"',
            "has_files = false",
        ]
        config.touch(mode=0o600)
        config.write_text("\n".join(lines) + "\n")
        if node not in self._keepers:
            self._keepers[node] = asyncio.create_task(self._keep(node, config), name=f"agent {node}")

    async def stop(self, node: str) -> None:
        """End it."""
        keeper = self._keepers.pop(node, None)
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)

    async def forget(self, node: str) -> None:
        """End it for good: its key and its configuration go too."""
        await self.stop(node)
        shutil.rmtree(self._home / node, ignore_errors=True)

    async def close(self) -> None:
        """End all."""
        for node in list(self._keepers):
            await self.stop(node)

    async def _keep(self, node: str, config: Path) -> None:
        ended = 0
        while True:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                _PROGRAM,
                str(os.getpid()),
                "agent",
                "--config",
                str(config),
                stdin=asyncio.subprocess.DEVNULL,
            )
            loop = asyncio.get_running_loop()
            began = loop.time()
            try:
                code = await process.wait()
            except asyncio.CancelledError:
                await _end(process)
                raise
            ended = 0 if loop.time() - began > 60 else min(ended + 1, len(RESTART_DELAYS))
            delay = RESTART_DELAYS[max(0, ended - 1)]
            log.warning("agent ended", node=node, code=code, again_in=delay)
            await asyncio.sleep(delay)


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_GRACE)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _quoted(text: str) -> str:
    """A TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
