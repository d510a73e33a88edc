"""A web server with one image, which may break off, or know no ranges."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Site:
    """breaks: bytes of each of the first answers that are sent, one after the other; ranges: it knows them; sized: it
    says how large the image is; asked: the ranges that were asked for; status: of every answer."""

    data: bytes
    breaks: list[int] = field(default_factory=list)
    ranges: bool = True
    sized: bool = True
    mark: str = '"one"'
    status: int = 200
    asked: list[str] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    """Its `url` is that of the image."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None: ...

        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            site.asked.append(wanted)
            if site.status != 200:
                self.send_error(site.status)
                return
            found = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted) if site.ranges else None
            first = int(found[1]) if found else 0
            last = int(found[2]) if found and found[2] else len(site.data) - 1
            self.send_response(206 if found else 200)
            self.send_header("ETag", site.mark)
            if found:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(site.data)}")
            if site.sized:
                self.send_header("Content-Length", str(last + 1 - first))
            self.end_headers()
            body = site.data[first : last + 1]
            # The first bytes are always given, to look at.
            cut = site.breaks.pop(0) if site.breaks and last == len(site.data) - 1 else len(body)
            try:
                self.wfile.write(body[:cut])
            except OSError:
                return
            self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}/some/image.raw"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
