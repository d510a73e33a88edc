"""The process of imagemgr.transfer.worker, which kills itself at a POINT when it comes there the TIMES-th time."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from imagemgr.transfer.node import Node
from imagemgr.transfer.worker import Frames


def main() -> None:
    """Until the input ends."""
    left = [int(os.environ.get("TIMES", "1"))]

    def at(point: str) -> None:
        if point == os.environ.get("POINT"):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

    limits = (int(os.environ.get(name, "0")) for name in ("SENDING", "RECEIVING"))
    Frames(Node(Path(sys.argv[1]), *limits, at), sys.stdin.buffer, sys.stdout.buffer).run()
    os._exit(0)


if __name__ == "__main__":
    main()
