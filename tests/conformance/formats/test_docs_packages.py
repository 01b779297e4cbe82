"""docs/packages.md: its Python runs, in order, and its model.toml is one."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from headrace.registry.manifest import manifest_from_dict

TEXT = (Path(__file__).parents[3] / "docs" / "packages.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


def test_the_python_runs(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    # Files are made first, as a reader would have them.
    for language, name, source in BLOCKS:
        if language == "python" and name:
            (tmp_path / name).write_text(source)
    names: dict[str, object] = {"__name__": "docs"}
    sources = [source for language, name, source in BLOCKS if language == "python" and not name]
    assert len(sources) >= 5
    for source in sources:
        exec(compile(source, "docs/packages.md", "exec"), names)


def test_the_model_toml_is_one() -> None:
    (source,) = [source for language, _, source in BLOCKS if language == "toml"]
    # What is commented out is a key too: it must be one that is known.
    manifest_from_dict(tomllib.loads(source))
    more = re.sub(r"^# (files|finite|requirements|max_tokens)", r"\1", source, flags=re.MULTILINE)
    more = more.replace('format = "torch-export"', 'format = "safetensors"')
    manifest_from_dict(tomllib.loads(more.replace("# handler", "handler")))
