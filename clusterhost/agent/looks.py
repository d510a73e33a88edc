"""Have a node looked at by a process of its own (netmgr.apply.look), which ends with its answer.  Knows no question.

Not by the process that makes networks: whoever traces wants to know also when that one hangs.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from clusterhost.agent.errors import Unavailable

SECONDS = 20.0
"""For the probes, and for a machine that has much to do."""


class Looks:
    """state_dir is the agent's."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir

    async def look(self, question: bytes) -> bytes:
        """A Sight (MessagePack) for a Question (MessagePack).  Unavailable."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "netmgr.apply.look", "--state", str(self._state_dir)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(SECONDS):
                sight, _ = await process.communicate(question)
        except TimeoutError:
            raise Unavailable("refused", f"the node was not looked at within {SECONDS:.0f} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise Unavailable(
                "refused", f"the process that looks at the node ended with {process.returncode}"
            )
        return sight
