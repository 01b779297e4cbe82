"""A model whose right answer is a pure function of the record, and records that are poison.

Copied into a package, with a line that says PACE; run by workers only.
"""

import ctypes
import time
import zlib

PACE = 0.0


class Handler:
    def forward(self, records):
        time.sleep(PACE)
        return [self.answer(record["n"], record["op"], record["text"]) for record in records]

    def answer(self, n, op, text):
        if op == "raise":
            raise ValueError(f"no record {n}, please")
        if op == "crash":
            ctypes.string_at(0)
        if op == "hang":
            time.sleep(3600)
        if op == "swell":
            # Over the bound, but not over what the machine has.
            hoard = [bytearray(b"x") * (64 << 20) for _ in range(10)]
            time.sleep(3600)
            return len(hoard)
        return {"sum": zlib.crc32(f"{n} {text}".encode()), "text": text[::-1]}
