"""The step between fork and exec."""

import os
import subprocess
import sys

from headrace.stack import child


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", child.__file__, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_starts_nothing_for_a_parent_that_died_meanwhile():
    ended = run("999999999", "echo", "started")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "parent died" in ended.stderr


def test_a_program_that_is_not_there_is_named():
    ended = run(str(os.getpid()), "/no/such/program")
    assert ended.returncode == 1
    assert "/no/such/program: " in ended.stderr
