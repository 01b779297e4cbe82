"""Does once with a store what jobs will do, so that what it refuses is seen at deployment."""

from __future__ import annotations

import secrets

from headrace.errors import ObjectExists, StorageError
from headrace.storage import ObjectStore


def rehearse(store: ObjectStore) -> bool:
    """Write, read, list and delete an object. Returns whether a taken key was refused.

    Raises what the store does, and StorageError where it does not give back what was written.
    """
    key, data = f"rehearsal/{secrets.token_hex(8)}", secrets.token_bytes(1024)
    store.put(key, data)
    try:
        store.put(key, data)
        if (store.get(key), store.get(key, 1, 2)) != (data, data[1:3]):
            raise StorageError(key, "is not read back as it was written")
        if [info.key for info in store.list(key)] != [key]:
            raise StorageError(key, "is not listed")
        try:
            store.put(key, data[::-1])
        except ObjectExists:
            return True
        return False
    finally:
        store.delete([key])
