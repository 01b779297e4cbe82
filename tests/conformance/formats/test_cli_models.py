"""headrace models: what is printed, and the exit codes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from headrace.cli import main
from headrace.registry.package import read_package
from tests.conformance.formats import models

HANDLER = "class Handler:\n    def forward(self, records): return records\n"


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEADRACE_ALLOW_CODE", raising=False)

    def invoke(*arguments: object):
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    return invoke


def test_init_then_check(run, pool_pt2, tmp_path) -> None:
    np.savez(tmp_path / "e.npz", **models.example())
    made = run(
        "models", "init", pool_pt2, "p", "--example", "e.npz", "--shape", "x=tokens, 4",
        "--pad", "x=0", "--pad", "mask=0",
        "--max-records", "8", "--pool", "gpu", "--name", "digits",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    assert "[tokens, 4]" in made.output
    manifest = read_package(tmp_path / "p").manifest
    assert (manifest.name, manifest.pool, manifest.batching.max_records) == ("digits", "gpu", 8)
    assert [field.pad for field in manifest.signature.inputs] == [0, 0]
    checked = run("models", "check", "p")
    assert checked.exit_code == 0
    assert "3 golden examples reproduced on cpu" in checked.output


def test_an_error_is_one_line_and_code_1(run, pool_package) -> None:
    (pool_package / "golden.jsonl").write_text("{")
    failed = run("models", "check", pool_package)
    assert failed.exit_code == 1
    assert failed.stdout == ""
    assert failed.stderr.startswith("Error: golden.jsonl: line 1: not JSON")
    assert failed.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["models", "check"],
        ["models", "check", "/nowhere"],
        ["models", "init", "p"],
        ["models", "init", "e.json", "--example", "e.json", "--pad", "x"],
        ["models", "init", "e.json", "--example", "e.json", "--pad", "x=y"],
    ],
)
def test_wrong_usage_is_code_2(run, tmp_path, arguments) -> None:
    (tmp_path / "e.json").write_text("{}")
    assert run(*arguments).exit_code == 2


def test_trust_prints_what_to_allow(run, tmp_path, monkeypatch) -> None:
    (tmp_path / "handler.py").write_text(HANDLER)
    (tmp_path / "e.json").write_text('{"text": ["a", "b"]}')
    arguments = ["models", "init", "handler.py", "p", "--example", "e.json"]
    refused = run(*arguments)
    assert refused.exit_code == 1
    assert "HEADRACE_ALLOW_CODE" in refused.stderr
    assert not (tmp_path / "p").exists()

    made = run(*arguments, "--trust")
    assert made.exit_code == 0, made.output
    assert run("models", "check", "p").exit_code == 1
    (line,) = [line for line in made.output.splitlines() if line.startswith("HEADRACE_ALLOW_CODE=")]
    allowed = line.partition("=")[2].strip("'")
    assert json.loads(allowed) == list(read_package(tmp_path / "p").code.values())
    monkeypatch.setenv("HEADRACE_ALLOW_CODE", allowed)
    assert run("models", "check", "p").exit_code == 0


@pytest.mark.parametrize("name", ["e.npz", "e.json", "e.npy"])
def test_a_broken_example_is_named(run, pool_pt2, tmp_path, name) -> None:
    (tmp_path / name).write_bytes(b"[1")
    failed = run("models", "init", pool_pt2, "p", "--example", name)
    assert failed.exit_code == 1
    assert failed.stderr.startswith(f"Error: {name}: ")


def test_list_and_show_as_json(run, pool_package, database_url, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HEADRACE_DATABASE_URL", database_url)
    monkeypatch.setenv("HEADRACE_STORE_URL", f"file://{tmp_path}/objects")
    for _ in range(2):
        pushed = run("models", "push", pool_package)
        assert pushed.exit_code == 0, pushed.output
    assert "pool@1" in run("models", "list").stdout
    (row,) = json.loads(run("models", "list", "--json").stdout)
    assert (row["model"], row["stable"], row["pool"]) == ("pool@1", True, "default")
    shown = json.loads(run("models", "show", "pool", "--json").stdout)
    assert (shown["model"], shown["digest"]) == ("pool@1", row["digest"])
    assert sorted(shown["files"]) == ["golden.jsonl", "model.toml", "pool.pt2"]
    assert [field["name"] for field in shown["manifest"]["inputs"]] == ["x", "mask"]
    assert run("models", "show", "nothing").exit_code == 1
