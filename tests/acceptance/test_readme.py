"""The README's examples, run in order as its reader would, on a running stack."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from headrace.stack import Stack
from tests.acceptance.markdown import ROOT, Block, blocks, commands, matches

TEXT = (ROOT / "README.md").read_text("utf-8")
EXAMPLES = [block for block in blocks(TEXT) if block.language in ("python", "console")]


@pytest.fixture
def folder(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the reader stands: beside the running stack, with an exported model of their own."""
    folder = stack.directory.parent
    monkeypatch.chdir(folder)
    example = torch.rand(4, 64)
    program = torch.export.export(
        torch.nn.Sequential(torch.nn.Linear(64, 10), torch.nn.Softmax(dim=1)),
        (example,),
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    torch.export.save(program, folder / "my_model.pt2")
    np.savez(folder / "inputs.npz", input=example.numpy())
    return folder


def test_the_examples(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sum(block.language == "python" for block in EXAMPLES) >= 4
    assert sum(len(commands(b)) for b in EXAMPLES if b.language == "console") >= 6
    names: dict[str, object] = {"__name__": "readme"}
    for block in EXAMPLES:
        if block.language == "console":
            run_console(block, folder)
        else:
            run_python(block, names, capsys)


def run_console(block: Block, folder: Path) -> None:
    path = f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}"
    for command in commands(block):
        ended = subprocess.run(
            ["bash", "-c", command.text],
            cwd=folder,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert ended.returncode == 0, f"$ {command.text}\n{ended.stdout}{ended.stderr}"
        assert matches(command.output, ended.stdout), f"$ {command.text}\n{ended.stdout}"


def run_python(block: Block, names: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    """A comment on a line that prints is what it prints; "e.g." leaves the numbers open."""
    shown = re.findall(r"^ *print\(.*\)  # (.+)$", block.text, re.MULTILINE)
    assert len(shown) == block.text.count("print(")
    capsys.readouterr()
    # Blank lines, so that a traceback names the README's own line.
    source = "\n" * (block.line - 1) + block.text
    exec(compile(source, "README.md", "exec"), names)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(shown)
    for line, comment in zip(printed, shown, strict=True):
        if comment.startswith("e.g. "):
            line, comment = (re.sub(r"\d+", "0", text) for text in (line, comment[5:]))
        assert line == comment


def test_the_demos_output_is_shown_as_it_is() -> None:
    """`test_demo` runs the demo; here its lines are held against the README's."""
    (shown,) = [b.text for b in blocks(TEXT) if b.language == "text" and "jobs done" in b.text]
    source = (ROOT / "examples" / "digits" / "demo.py").read_text("utf-8")
    labels = [re.match(r"  ([a-zA-Z]+( [a-z]+)*) {2,}", line) for line in shown.splitlines()[:-1]]
    for label in labels:
        assert label is not None
        assert f'print(f"{label[0]}' in source
    assert shown.splitlines()[-1].startswith("All 899 results equal those of a direct run;")
