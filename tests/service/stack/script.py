"""Runs a stack as a user's process would: ``python -m tests.service.stack.script OPTIONS``.

Prints a line of JSON when the block is entered and when it is left, so that a test can wait
for either without sleeping.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from headrace.stack import Stack


class StackUnderTest(Stack):
    """Its worker may be `stub_worker` instead, told how to behave."""

    behaviour: str | None = None

    def worker_command(self) -> list[str]:
        if self.behaviour is None:
            return super().worker_command()
        program = [sys.executable, "-m", "tests.service.stack.stub_worker", self.behaviour]
        return program + [word for word in super().worker_command() if word.startswith("--device")]


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--stub")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--flower", action="store_true")
    parser.add_argument("--fail", action="store_true")
    options = parser.parse_args()
    stack = StackUnderTest(
        options.directory, flower=options.flower, workers=options.workers, timeout=60
    )
    stack.behaviour = options.stub
    with stack:
        say(
            up=True,
            pids={name: process.pid for name, process in stack.processes.items()},
            **stack.settings,
        )
        if options.fail:
            raise RuntimeError("half-way")
        time.sleep(60)


if __name__ == "__main__":
    main()
