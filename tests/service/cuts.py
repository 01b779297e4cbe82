"""A TCP proxy before PostgreSQL, that breaks connections in the middle of a conversation."""

import re
import select
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_STATEMENT = re.compile(rb"(?:COMMIT\0|(?:INSERT|SELECT|UPDATE|WITH) [a-zA-Z][^\0]{0,24})")
"""Its beginning, which is much the same for one that is planned anew."""
_EVERY, _BEFORE, _AFTER = 20, 2, 4
"""Of every twenty times that a kind comes, these two end badly."""


class Cuts:
    """Breaks connections while `on`, at each kind of statement in turn.

    before: what was cut off before the server heard it; after: what it had answered.
    """

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        self.on = False
        self.before: set[bytes] = set()
        self.after: set[bytes] = set()
        self._connect = connect
        self._seen: Counter[bytes] = Counter()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def serve(self) -> None:
        """Until `close`."""
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._between, args=(client,), daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _between(self, client: socket.socket) -> None:
        with client, self._connect() as server, suppress(OSError):
            last = False
            while True:
                ready, _, _ = select.select([client, server], [], [])
                if server in ready:
                    if last or not (data := server.recv(1 << 16)):
                        break
                    client.sendall(data)
                if client in ready:
                    data = client.recv(1 << 16)
                    number = self._number(data)
                    if not data or number == _BEFORE:
                        break
                    last = last or number == _AFTER
                    server.sendall(data)
            # Reset, as a broken network does.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _number(self, data: bytes) -> int:
        """Which of every twenty times this is that the statement comes."""
        found = _STATEMENT.search(data)
        if found is None or not self.on:
            return 0
        self._seen[found[0]] += 1
        number = self._seen[found[0]] % _EVERY
        {_BEFORE: self.before, _AFTER: self.after}.get(number, set()).add(found[0])
        return number


@contextmanager
def cuts(connect: Callable[[], socket.socket]) -> Iterator[Cuts]:
    made = Cuts(connect)
    thread = threading.Thread(target=made.serve)
    thread.start()
    try:
        yield made
    finally:
        made.close()
        thread.join()
