"""headrace run and headrace datasets, over a SQLite job table and a folder."""

import json

import pytest
from click.testing import CliRunner

from headrace import Client
from headrace.cli import main
from headrace.cli.exits import Exit
from headrace.db.engine import Database
from tests.conformance.dataset_table import DatasetTable
from tests.conformance.job_table import JobTable
from tests.conformance.registered import IMAGE, register


@pytest.fixture
def sets(tmp_path, database_url, monkeypatch) -> DatasetTable:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_DATABASE_URL", database_url)
    monkeypatch.setenv("HEADRACE_STORE_URL", f"file://{tmp_path}/objects")
    monkeypatch.setenv("HEADRACE_BROKER_URL", "redis://127.0.0.1:9/0")
    monkeypatch.setenv("HEADRACE_BROKER_TIMEOUT", "0.1")
    (tmp_path / "in.jsonl").write_text("{}\n")
    database = Database(database_url)
    register(database, "digits", IMAGE)
    yield DatasetTable(JobTable(database))
    database.close()


@pytest.fixture
def run(sets):
    def run(*arguments: object):
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    return run


@pytest.fixture
def begun(run) -> str:
    """A dataset that nobody waits for."""
    done = run("run", "digits", "in.jsonl", "out", "--no-wait", "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["id"]


def test_every_option_reaches_the_dataset(run, sets) -> None:
    options = "--input image=a* --input image=b --id name --carry x --carry y --format csv"
    options += " --compression gzip --dedupe --shard-rows 7 --priority high --deadline 60"
    done = run("run", "digits", "in.jsonl", "out", *options.split(), "--no-wait", "--json")
    told = json.loads(done.stdout)
    found = sets.get(told["id"])
    spec = found.spec
    assert spec.inputs == {"image": ("a*", "b")}
    assert (spec.id, spec.carry, spec.dedupe, spec.shard_rows) == ("name", ("x", "y"), True, 7)
    assert (spec.format, spec.compression) == ("csv", "gzip")
    assert (found.priority.queue, found.deadline is None) == ("high", False)
    assert (told["state"], told["id_column"], told["total"]) == ("queued", "name", 0)


@pytest.mark.parametrize(
    ("rows", "code"),
    [((3, 0), Exit.DONE), ((2, 1), Exit.PARTIAL), ((0, 3), Exit.FAILED)],
)
def test_the_exit_code_tells_how_it_ended(run, sets, begun, rows, code) -> None:
    sets.plan(begun, 3)
    sets.run(*rows)
    sets.close(begun)
    done = run("run", "digits", "in.jsonl", "out")
    assert done.exit_code == code
    assert f"{rows[0] + rows[1]} of 3 records, {rows[1]} failed" in done.stdout
    assert begun in done.stdout


def test_failed_records_run_again(run, sets, begun) -> None:
    sets.plan(begun, 3)
    sets.run(1, 2)
    sets.close(begun)
    done = run("run", "digits", "in.jsonl", "out", "--only-failed", "--no-wait")
    assert done.exit_code == 0, done.output
    assert sets.renew(begun) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nowhere.jsonl", "out"), "Error: input: there is no "),
        (("in.jsonl", "out", "--input", "picture=a"), "Error: inputs.picture: the model has image"),
        (("in.jsonl", "out", "--input", "picture"), "expected FIELD=COLUMN"),
    ],
)
def test_what_is_wrong_is_told(run, arguments, told) -> None:
    done = run("run", "digits", *arguments)
    assert done.exit_code in (Exit.FAILED, Exit.USAGE)
    assert told in done.stderr


def test_list_show_and_cancel(run, begun) -> None:
    assert begun in run("datasets", "list").stdout
    assert "none serves pool" in run("datasets", "show", begun).stdout
    assert run("datasets", "cancel", begun).stdout == f"{begun} is cancelled\n"
    assert run("datasets", "cancel", begun).stdout == f"{begun} had ended\n"
    listed = json.loads(run("datasets", "list", "--state", "cancelled", "--json").stdout)
    assert [each["id"] for each in listed["datasets"]] == [begun]
    assert run("datasets", "show", "no-such").exit_code == Exit.FAILED


def test_the_bar_shows_what_is_known(sets, begun, capsys) -> None:
    """On a terminal, which this is not: the client's is the same."""
    with Client() as client:
        sets.plan(begun, 3)
        sets.run(2, 1)
        sets.close(begun)
        client.wait_dataset(begun, progress=True)
    assert "partial" in (shown := capsys.readouterr().err)
    assert "3 of 3 records, 1 failed" in shown
