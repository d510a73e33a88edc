"""The process that moves a node's images: orders on its standard input, answers and progress on its output.

A process of its own, so that copying neither blocks nor grows the agent.  It ends when its input does, at once: what
has come is in journals.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import BinaryIO

import msgspec

from imagemgr.transfer.frames import LENGTH, Order, Said
from imagemgr.transfer.node import Node
from imagemgr.transfer.orders import ARGUMENTS
from imagemgr.transfer.receive import Told

log = logging.getLogger("imagemgr.worker")


class Frames:
    """Orders from a pipe, each in a thread; what is said goes to another.  `run` returns when the first is closed."""

    def __init__(self, node: Node, orders: BinaryIO, answers: BinaryIO) -> None:
        self._node = node
        self._orders = orders
        self._answers = answers
        self._lock = threading.Lock()

    def run(self) -> None:
        """Until the input ends."""
        decode = msgspec.msgpack.Decoder(Order).decode
        while len(head := self._orders.read(LENGTH.size)) == LENGTH.size:
            (size,) = LENGTH.unpack(head)
            order = decode(self._orders.read(size))
            threading.Thread(target=self._carry_out, args=(order,), daemon=True).start()

    def _carry_out(self, order: Order) -> None:
        try:
            arguments = msgspec.msgpack.decode(order.arguments, type=ARGUMENTS[order.kind])
            result = self._node.carry_out(arguments, order.address, self._told(order.number))
            self._say(Said(order.number, "done", msgspec.Raw(msgspec.msgpack.encode(result))))
        except (KeyError, msgspec.DecodeError) as error:
            self._say(Said(order.number, "problem", text=f"{order.kind} cannot be read: {error}"))
        except Exception as error:  # an order's end, whatever it is, has to be told: somebody waits for it
            if not isinstance(error, Node.SAYS):
                log.exception("%s", order.kind)
            self._say(Said(order.number, "problem", text=_sentence(error)))

    def _told(self, number: int) -> Told:
        def told(done: int, total: int, text: str) -> None:
            self._say(Said(number, "progress", text=text, done=done, total=total))

        return told

    def _say(self, said: Said) -> None:
        data = msgspec.msgpack.encode(said)
        with self._lock:
            self._answers.write(LENGTH.pack(len(data)) + data)
            self._answers.flush()


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{(error.strerror or str(error)).lower()}"
    return str(error) or type(error).__name__


def main() -> None:
    """Until the input ends."""
    parser = argparse.ArgumentParser(prog="imagemgr-worker", description=__doc__)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--sending", type=int, default=0, help="bytes a second that leave, 0 for no limit")
    parser.add_argument("--receiving", type=int, default=0, help="bytes a second that come, 0 for no limit")
    parser.add_argument("--port", type=int, default=0, help="where images are given, 0 for any")
    options = parser.parse_args()
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the agent ends it
    node = Node(options.state, options.sending, options.receiving, port=options.port)
    Frames(node, sys.stdin.buffer, sys.stdout.buffer).run()
    # Threads that still copy need no goodbye.
    os._exit(0)


if __name__ == "__main__":
    main()
