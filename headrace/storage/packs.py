"""Many results in one object. Pure, but for `read_pack`.

A worker stores one object per batch, not one per job: an object costs a round trip whatever
its size. The job table keeps (offset, length) of each payload, so a reader fetches its own
bytes with a ranged read and needs no knowledge of this format. The headers are for the day
when the table is not at hand: `scan` reads back from the object alone which job has which
payload, and sees a missing, truncated or damaged part.

Layout, little-endian::

    entry   "HRPK"  version u16  id length u16  crc32 u32  payload length u64
            job id (UTF-8)  payload
    …
    end     "HRPE"  version u16  0 u16          crc32 u32  number of entries u64

An entry's crc32 runs over its header (with the crc as 0), id and payload; the end's over its
header and the checksums of all entries, so that no entry can be lost or swapped unseen.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence

from headrace.errors import ObjectCorrupt
from headrace.job import JobId
from headrace.storage import ObjectStore

VERSION = 1

_HEADER = struct.Struct("<4sHHIQ")
_ENTRY, _END = b"HRPK", b"HRPE"
_CRC = struct.Struct("<I")
_MAX_ID = 0xFFFF


def build_pack(items: Sequence[tuple[JobId, bytes]]) -> tuple[bytes, list[tuple[int, int]]]:
    """The pack of `items`, and (offset, length) in bytes of each payload in it, in their order.

    Raises ValueError for a job id over 65,535 bytes.
    """
    parts: list[bytes] = []
    places: list[tuple[int, int]] = []
    checksums = bytearray()
    position = 0
    for job_id, payload in items:
        name = job_id.encode()
        if len(name) > _MAX_ID:
            raise ValueError(f"a job id has at most {_MAX_ID} bytes, not {len(name)}")
        blank = _HEADER.pack(_ENTRY, VERSION, len(name), 0, len(payload))
        crc = _crc(blank, name, payload)
        checksums += _CRC.pack(crc)
        parts += (_HEADER.pack(_ENTRY, VERSION, len(name), crc, len(payload)), name, payload)
        start = position + _HEADER.size + len(name)
        places.append((start, len(payload)))
        position = start + len(payload)
    crc = _crc(_HEADER.pack(_END, VERSION, 0, 0, len(items)), checksums)
    parts.append(_HEADER.pack(_END, VERSION, 0, crc, len(items)))
    return b"".join(parts), places


def read_pack(
    store: ObjectStore, key: str, wanted: Sequence[tuple[JobId, int, int]]
) -> list[bytes]:
    """The payloads at (job id, offset, length), in their order, in one ranged read.

    Raises ObjectMissing, and ObjectCorrupt where an entry is not that job's, or is damaged.
    """
    starts = [offset - _HEADER.size - len(job_id.encode()) for job_id, offset, _ in wanted]
    first, end = min(starts), max(offset + length for _, offset, length in wanted)
    data = store.get(key, first, end - first)
    return [
        _entry(data, start - first, job_id, length, key)
        for start, (job_id, _, length) in zip(starts, wanted, strict=True)
    ]


def scan(data: bytes, key: str = "pack") -> Iterator[tuple[JobId, bytes]]:
    """Each job id and payload of a whole pack, in order, as the object alone tells it.

    key: names the object in errors. Raises ObjectCorrupt when it reaches the damage: entries
    yielded before are sound, but only a scan that ends proves that all are there.
    """
    checksums = bytearray()
    position = 0
    while True:
        magic, id_length, crc, length = _header(data, position, key)
        body = position + _HEADER.size
        if magic == _END:
            blank = _HEADER.pack(_END, VERSION, id_length, 0, length)
            if crc != _crc(blank, checksums) or body != len(data):
                raise ObjectCorrupt(key, f"the pack's end at byte {position} does not fit it")
            return
        end = body + id_length + length
        if end > len(data):
            raise ObjectCorrupt(key, f"truncated in the entry at byte {position}")
        name, payload = data[body : body + id_length], data[body + id_length : end]
        blank = _HEADER.pack(_ENTRY, VERSION, id_length, 0, length)
        if crc != _crc(blank, name, payload):
            raise ObjectCorrupt(key, f"wrong checksum in the entry at byte {position}")
        yield JobId(name.decode()), payload
        checksums += _CRC.pack(crc)
        position = end


def _entry(data: bytes, position: int, job_id: JobId, length: int, key: str) -> bytes:
    """The payload in the entry at `position`, which must be that job's and have this length."""
    name = job_id.encode()
    start = position + _HEADER.size + len(name)
    payload = data[start : start + length]
    crc = _crc(_HEADER.pack(_ENTRY, VERSION, len(name), 0, length), name, payload)
    if data[position:start] != _HEADER.pack(_ENTRY, VERSION, len(name), crc, length) + name:
        raise ObjectCorrupt(key, f"the entry of job {job_id} is not as it was written")
    return payload


def _header(data: bytes, position: int, key: str) -> tuple[bytes, int, int, int]:
    """(magic, id length, crc32, length) of the header at `position`."""
    if position + _HEADER.size > len(data):
        raise ObjectCorrupt(key, f"truncated at byte {len(data)}")
    magic, version, id_length, crc, length = _HEADER.unpack_from(data, position)
    if magic not in (_ENTRY, _END):
        raise ObjectCorrupt(key, f"not a pack entry at byte {position}")
    if version != VERSION:
        raise ObjectCorrupt(key, f"pack version {version} at byte {position}, not {VERSION}")
    return magic, id_length, crc, length


def _crc(*parts: bytes | bytearray) -> int:
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    return crc
