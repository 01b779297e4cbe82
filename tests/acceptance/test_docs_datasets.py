"""What docs/datasets.md tells its reader to do, in order, on a running stack."""

from pathlib import Path

import pytest

from headrace.stack import Stack
from tests.acceptance.markdown import ROOT, blocks
from tests.acceptance.test_readme import run_console, run_python

EXAMPLES = [
    block
    for block in blocks((ROOT / "docs" / "datasets.md").read_text("utf-8"))
    if block.language in ("python", "console")
]


def test_the_examples(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder: Path = stack.directory.parent
    monkeypatch.chdir(folder)
    names: dict[str, object] = {"__name__": "datasets"}
    for block in EXAMPLES:
        if block.language == "console":
            run_console(block, folder)
        else:
            run_python(block, names, capsys)
    assert len(EXAMPLES) == 5
