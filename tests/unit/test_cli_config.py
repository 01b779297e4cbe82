"""headrace config, db and worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

import headrace
from headrace.cli import main
from headrace.cli import worker as worker_module
from headrace.db.engine import Database
from headrace.settings import Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_DATABASE_URL", f"sqlite:///{tmp_path}/jobs.db")
    return lambda *arguments: CliRunner().invoke(main, arguments)


def test_show_says_value_origin_and_meaning(run, tmp_path) -> None:
    (tmp_path / "headrace.toml").write_text("lease = 7\n")
    shown = run("config", "show")
    assert shown.exit_code == 0
    lines = {line.split()[0]: line for line in shown.stdout.splitlines() if line.strip()}
    assert lines.keys() >= Settings.model_fields.keys()
    assert "7.0 seconds" in lines["lease"]
    assert "headrace.toml" in lines["lease"]
    assert "default" in lines["grace"]


def test_show_as_json(run) -> None:
    rows = {row["name"]: row for row in json.loads(run("config", "show", "--json").stdout)}
    assert list(rows) == list(Settings.model_fields)
    assert rows["database_url"]["origin"] == "HEADRACE_DATABASE_URL"
    assert rows["lease"] == {
        "name": "lease",
        "variable": "HEADRACE_LEASE",
        "value": 15.0,
        "origin": "default",
        "unit": "seconds",
        "meaning": Settings.model_fields["lease"].description,
    }


def test_docs_are_up_to_date(run) -> None:
    written = (ROOT / "docs" / "settings.md").read_text("utf-8")
    assert run("config", "docs").stdout == written, "run `headrace config docs > docs/settings.md`"
    assert str(Path.home()) not in written


def test_db_status_then_upgrade(run) -> None:
    before = run("db", "status")
    assert before.exit_code == 1
    assert "`headrace db upgrade` will run: 0001" in before.output
    upgraded = run("db", "upgrade")
    assert upgraded.exit_code == 0
    assert upgraded.output.startswith("upgraded from an empty database to ")
    assert run("db", "upgrade").output.startswith("up to date at ")
    after = run("db", "status", "--json")
    assert after.exit_code == 0
    assert json.loads(after.output)["pending"] == []
    assert run("db", "status").output.endswith(
        f"up to date at {json.loads(after.output)['current']}\n"
    )


def test_db_upgrade_to_what_is_no_revision(run) -> None:
    failed = run("db", "upgrade", "nothing")
    assert failed.exit_code == 1
    assert failed.output.startswith("Error: ")
    assert "'nothing'" in failed.output


def test_db_of_a_newer_release(run, tmp_path) -> None:
    run("db", "upgrade")
    database = Database(f"sqlite:///{tmp_path}/jobs.db")
    with database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    for command in ("status", "upgrade"):
        failed = run("db", command)
        assert failed.exit_code == 1
        assert "9999" in failed.output
        assert "newer" in failed.output
        assert failed.output.count("\n") == 1


def test_worker_turns_into_the_program(run, monkeypatch) -> None:
    called = []
    monkeypatch.setattr(os, "execve", lambda *arguments: called.append(arguments))
    assert run("worker", "--device", "cuda:1", "--pool", "gpu", "--help").exit_code == 0
    (program, arguments, environment) = called[0]
    assert program == sys.executable
    assert arguments[1:] == ["-m", "workers", "--device", "cuda:1", "--pool", "gpu", "--help"]
    assert environment["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)


def test_worker_really_starts(tmp_path) -> None:
    said = subprocess.run(
        [sys.executable, "-c", "from headrace.cli import main; main()", "worker", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--device" in said.stdout


def test_worker_without_a_checkout_says_where_workers_run(run, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(headrace, "__file__", str(tmp_path / "site-packages/headrace/__init__.py"))
    assert worker_module.headrace is headrace
    failed = run("worker")
    assert failed.exit_code == 1
    assert "checkout or image" in failed.output
