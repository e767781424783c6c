"""A web server on this machine that serves one file and misbehaves on request."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class FileServer:
    """What is served, and how.

    Attributes:
        content: The file, at any path.
        ranges: Whether parts are served.
        validator: Name of the header that identifies the content: "ETag", "Last-Modified", or none.
        cuts: Bytes after which the connection breaks, one entry a request; requests after the last are served whole.
        statuses: Status codes that are answered first, one a request.
        length: Whether Content-Length is told.
        shift: Added to the start of each part that is served: not the part that was asked for.
        kind: Content-Type; none by default.
        redirect: Where every request is sent instead.
        pause: Seconds between two blocks of 16 KiB.
        requests: What was asked: path, Range or None, status.
    """

    content: bytes
    ranges: bool = True
    validator: str | None = "ETag"
    cuts: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    length: bool = True
    shift: int = 0
    pause: float = 0.0
    kind: str = ""
    redirect: str = ""
    address: str = ""
    requests: list[tuple[str, str | None, int]] = field(default_factory=list)

    def identity(self) -> str:
        digest = hashlib.sha256(self.content).hexdigest()
        if self.validator == "ETag":
            return f'"{digest[:16]}"'
        return f"Mon, 0{1 + int(digest[0], 16) % 9} Jan 2024 00:00:00 GMT"


def _handler(server: FileServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.close_connection = True
            asked = self.headers.get("Range")
            if server.statuses:
                status = server.statuses.pop(0)
                server.requests.append((self.path, asked, status))
                self.send_error(status)
                return
            if server.redirect:
                self.send_response(302)
                self.send_header("Location", server.redirect)
                self.end_headers()
                return
            start = 0
            if asked and server.ranges and self.headers.get("If-Range") in {None, server.identity()}:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                if start >= len(server.content):
                    server.requests.append((self.path, asked, 416))
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(server.content)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
            status = 206 if start else 200
            start = start + server.shift if start else 0
            body = server.content[start:]
            server.requests.append((self.path, asked, status))
            self.send_response(status)
            if server.kind:
                self.send_header("Content-Type", server.kind)
            if server.validator:
                self.send_header(server.validator, server.identity())
            if status == 206:
                total = len(server.content)
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            if server.length:
                self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            cut = server.cuts.pop(0) if server.cuts else len(body)
            body = body[:cut]
            with suppress(BrokenPipeError, ConnectionResetError):  # who asked has seen enough
                for at in range(0, len(body), 1 << 14):
                    self.wfile.write(body[at : at + (1 << 14)])
                    time.sleep(server.pause)

    return Handler


@contextmanager
def serve(server: FileServer) -> Iterator[FileServer]:
    """Serves on 127.0.0.1 as long as the block lasts; `server.address` says where."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(server)) as http:
        server.address = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
