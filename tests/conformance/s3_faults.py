"""A proxy before an S3 server, that does what networks and busy servers do.

``proxy.next("PUT", refuse(503, "SlowDown"), lost(refuse(500, "InternalError")))`` has the next
PUT fail without reaching the server, and the one after it reach it but lose its answer.
"""

import http.client
import socket
import struct
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class Request:
    """connection: which of the client's it came by."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int


Fault = Callable[["Handler", Request], None]


@dataclass
class Proxy:
    """url: where it listens. seen: what came, in order. whim: what else befalls a request of a
    method, if anything.
    """

    url: str
    whim: Callable[[str], Fault | None] = lambda method: None
    seen: list[Request] = field(default_factory=list)
    faults: dict[str, deque[Fault]] = field(default_factory=lambda: defaultdict(deque))

    def next(self, method: str, *faults: Fault) -> None:
        """What the next requests of this method meet, one each."""
        self.faults[method] += faults

    def count(self, method: str) -> int:
        return sum(request.method == method for request in self.seen)

    def unused(self) -> int:
        return sum(map(len, self.faults.values()))


def refuse(status: int, code: str) -> Fault:
    """Answer with S3's error, without asking the server."""

    def fault(handler: "Handler", request: Request) -> None:
        text = f"<Error><Code>{code}</Code><Message>told to say {code}</Message></Error>"
        handler.answer(status, {"Content-Type": "application/xml"}, text.encode())

    return fault


def answer(status: int, headers: dict[str, str], body: bytes) -> Fault:
    return lambda handler, request: handler.answer(status, headers, body)


def lost(then: Fault) -> Fault:
    """Have the server do it, but answer with something else."""

    def fault(handler: "Handler", request: Request) -> None:
        handler.ask(request)
        then(handler, request)

    return fault


def reset(handler: "Handler", request: Request) -> None:
    """Break the connection."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.shutdown(socket.SHUT_RD)
    handler.close_connection = True
    handler.connection.close()


def hang(seconds: float) -> Fault:
    """Say nothing for a while."""
    return lambda handler, request: (time.sleep(seconds), reset(handler, request))[1]


def truncate(handler: "Handler", request: Request) -> None:
    """Break off in the middle of the body."""
    status, headers, body = handler.ask(request)
    handler.answer(status, headers, body[: len(body) // 2], length=len(body))
    handler.close_connection = True


def shorten(handler: "Handler", request: Request) -> None:
    """Send half of the body as though it were all."""
    status, headers, body = handler.ask(request)
    handler.answer(status, headers, body[: len(body) // 2])


def damage(handler: "Handler", request: Request) -> None:
    """Flip one bit of the body."""
    status, headers, body = handler.ask(request)
    handler.answer(status, headers, bytes([body[0] ^ 1]) + body[1:])


def without(header: str) -> Fault:
    """Act as though the header were not there: everything for a range, as HTTP allows."""

    def fault(handler: "Handler", request: Request) -> None:
        kept = {k: v for k, v in request.headers.items() if k.lower() != header.lower()}
        handler.answer(*handler.ask(replace(request, headers=kept)))

    return fault


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy
    upstream: str

    def do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(self.command, self.path, dict(self.headers), body, self.client_address[1])
        self.proxy.seen.append(request)
        faults = self.proxy.faults[self.command]
        fault = faults.popleft() if faults else self.proxy.whim(self.command)
        if fault is not None:
            fault(self, request)
        else:
            self.answer(*self.ask(request))

    def ask(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        server = http.client.HTTPConnection(self.upstream)
        headers = {k: v for k, v in request.headers.items() if k.lower() != "expect"}
        server.request(request.method, request.path, request.body, headers)
        answer = server.getresponse()
        body = answer.read()
        server.close()
        return answer.status, dict(answer.getheaders()), body

    def answer(
        self, status: int, headers: dict[str, str], body: bytes, length: int | None = None
    ) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        if self.command == "HEAD":
            self.send_header("Content-Length", headers.get("Content-Length", "0"))
        else:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


for _method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
    setattr(Handler, f"do_{_method}", Handler.do)


@contextmanager
def proxy(endpoint: str) -> Iterator[Proxy]:
    """A proxy before the server at `endpoint`."""

    class Ours(Handler):
        upstream = urlsplit(endpoint).netloc

    server = ThreadingHTTPServer(("127.0.0.1", 0), Ours)
    server.daemon_threads = True
    # A client that left while it was answered is what some tests are about.
    server.handle_error = lambda request, address: None  # type: ignore[method-assign]
    Ours.proxy = Proxy(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield Ours.proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
