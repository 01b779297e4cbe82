"""A network between two processes that can be cut, held up, and healed."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_CHUNK = 64 * 1024


class Link:
    """Forwards TCP connections from a port of its own to a server. connect: reaches the server."""

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        self._connect = connect
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._flowing = threading.Event()
        self._flowing.set()
        self._cut = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Reset what is connected, and whatever connects from now on."""
        self._cut = True
        self.reset()

    def hold(self) -> None:
        """Connections stay open, and nothing comes through any more: half-open, for both ends."""
        self._flowing.clear()

    def heal(self) -> None:
        """Let through what is held up, and what comes."""
        self._cut = False
        self._flowing.set()

    def reset(self) -> None:
        """Break what is connected now."""
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    linger = struct.pack("ii", 1, 0)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._cut = True
        self._listener.close()
        self.reset()
        self._flowing.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self._flowing.wait()
        with client:
            if self._cut:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            with contextlib.suppress(OSError), self._connect() as server:
                with self._lock:
                    self._open |= {client, server}
                try:
                    back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
                    back.start()
                    self._pump(client, server)
                    back.join()
                finally:
                    with self._lock:
                        self._open -= {client, server}

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                self._flowing.wait()
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def link(connect: Callable[[], socket.socket]) -> Iterator[Link]:
    made = Link(connect)
    try:
        yield made
    finally:
        made.close()


def tcp(port: int) -> Callable[[], socket.socket]:
    return lambda: socket.create_connection(("127.0.0.1", port), timeout=None)


def unix(path: str) -> Callable[[], socket.socket]:
    def connect() -> socket.socket:
        server = socket.socket(socket.AF_UNIX)
        server.connect(path)
        return server

    return connect
