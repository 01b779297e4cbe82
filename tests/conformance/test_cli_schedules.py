"""headrace schedules, over a SQLite job table."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from headrace.cli import main
from headrace.cli.exits import Exit
from headrace.db.engine import Database
from tests.conformance.registered import IMAGE, register


@pytest.fixture(autouse=True)
def table(tmp_path, database_url, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_DATABASE_URL", database_url)
    monkeypatch.setenv("HEADRACE_STORE_URL", f"file://{tmp_path}/objects")
    database = Database(database_url)
    register(database, "digits", IMAGE)
    database.close()


def run(*words: str, exit: Exit = Exit.DONE) -> Result:
    done = CliRunner().invoke(main, ["schedules", *words])
    assert done.exit_code == exit, done.output
    return done


def test_from_add_to_remove(tmp_path) -> None:
    files = ("--input", "in/{date-1d}/*.jsonl", "--output", "out/{date-1d}")
    added = run("add", "nightly", "--cron", "0 2 * * *", "--model", "digits", *files,
                "--wait-for", "24", "--notify", "a@b.org", "--notify", "c@d.org",
                "--set", "id=key", "--set", 'carry=["day"]')  # fmt: skip
    assert "nightly: first run at" in added.stdout
    (listed,) = json.loads(run("list", "--json").stdout)
    assert listed["spec"]["wait_for"] == 24
    assert listed["spec"]["notify"] == ["a@b.org", "c@d.org"]
    assert listed["spec"]["dataset"] == {"id": "key", "carry": ["day"]}
    assert listed["spec"]["input"] == f"{tmp_path}/in/{{date-1d}}/*.jsonl"
    assert "0 2 * * *" in run("list").stdout
    assert len(json.loads(run("next", "nightly", "-n", "3", "--json").stdout)) == 3
    assert "version 2" in run("edit", "nightly", "--retries", "2", "--unset", "notify").stdout
    made = run("run", "nightly", "--date", "2026-03-10").stdout
    assert f"{tmp_path}/out/2026-03-09/run-1" in made
    filled = run("backfill", "nightly", "--from", "2026-03-09", "--to", "2026-03-12")
    assert "3 of 4 dates wait" in filled.stderr
    assert "has a run" in filled.stdout
    history = run("history", "nightly").stdout
    assert "backfill" in history
    assert "manual" in history
    run("cancel", "nightly", "--date", "2026-03-10")
    states = {each["state"] for each in json.loads(run("history", "nightly", "--json").stdout)}
    assert states == {"waiting", "cancelled"}
    run("pause", "nightly")
    assert "paused by" in run("list").stdout
    assert run("resume", "nightly").stdout == "resumed\n"
    assert run("remove", "nightly").stdout == "nightly is removed\n"
    gone = run("history", "nightly", exit=Exit.FAILED)
    assert "there is no schedule 'nightly'" in gone.stderr


def test_a_file_is_applied_and_shown_as_a_diff(tmp_path) -> None:
    text = """version = 1
[schedules.nightly]
cron = "0 2 * * *"
model = "digits"
input = "s3://in/{date-1d:%Y/%m/%d}/*.parquet"
output = "s3://out/{date-1d}/"
"""
    (tmp_path / "schedules.toml").write_text(text)
    dry = run("apply", "--dry-run")
    assert '+ nightly\n    cron: "0 2 * * *"\n' in dry.stdout
    assert dry.stderr == "1 to change\n"
    assert run("apply").stderr == "1 changed\n"
    (tmp_path / "schedules.toml").write_text(text.replace("0 2", "0 5"))
    assert run("apply").stdout == '~ nightly\n    cron: "0 2 * * *" → "0 5 * * *"\n'
    (tmp_path / "schedules.toml").write_text("version = 1\n[schedules]\n")
    assert run("apply").stdout == "? nightly is not in the file; --prune removes it\n"
    assert run("apply", "--prune").stdout == "- nightly\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cron", "0 25 * * *"], "bad hour"),
        (["--output", "out"], "would share"),
        (["--model", "nothing"], "not in the registry"),
        (["--set", "colour=red"], "no such option"),
        (["--set", "format=xml"], "format"),
        (["--set", "id"], "expected NAME=VALUE"),
        (["--done-by", "6"], "done_by"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(words: list[str], said: str) -> None:
    options = {"--cron": "0 2 * * *", "--model": "digits", "--input": "in/{date}/*.parquet"}
    options |= {"--output": "out/{date}"} | {words[0]: words[1]}
    given = [word for option in options.items() for word in option]
    refused = run("add", "nightly", *given, exit=Exit.FAILED)
    assert said in refused.stderr
    assert refused.stderr.startswith("Error: ")
    assert refused.stderr.count("\n") == 1
