"""headrace submit, status, wait, result, cancel and list, over a SQLite job table and a folder."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from click.testing import CliRunner

from headrace import payload
from headrace.cli import main
from headrace.cli.exits import Exit
from headrace.db.engine import Database
from headrace.db.units import Success
from headrace.job import JobId
from headrace.storage import open_store
from headrace.storage.packs import build_pack
from tests.conformance.job_table import JobTable, failure, new_pack
from tests.conformance.registered import IMAGE, PAIR, register

OUTPUTS = {
    "scores": np.arange(3, dtype=np.float32),
    "text": "three",
    "blob": b"\x00\x01",
    "tree": {"a": [1, None]},
}


@pytest.fixture
def table(tmp_path, database_url, monkeypatch) -> JobTable:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_DATABASE_URL", database_url)
    monkeypatch.setenv("HEADRACE_STORE_URL", f"file://{tmp_path}/objects")
    # A port that nobody listens on: jobs are accepted without a broker.
    monkeypatch.setenv("HEADRACE_BROKER_URL", "redis://127.0.0.1:9/0")
    monkeypatch.setenv("HEADRACE_BROKER_TIMEOUT", "0.1")
    database = Database(database_url)
    register(database, "digits", IMAGE)
    register(database, "pair", PAIR)
    yield JobTable(database)
    database.close()


@pytest.fixture
def run(table):
    def run(*arguments: object, stdin: str = ""):
        return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)

    return run


@pytest.fixture
def submit(run, tmp_path):
    def submit(count: int = 1) -> list[JobId]:
        np.save(tmp_path / "images.npy", np.zeros((count, 2, 2), np.float32))
        done = run("submit", "digits", "--inputs", "images.npy")
        assert done.exit_code == 0, done.output
        return [JobId(id) for id in done.stdout.split()]

    return submit


@pytest.fixture
def work(table, tmp_path):
    """Finish everything that is queued."""

    def work(*, fail: bool = False) -> None:
        worker = table.worker()
        units = table.claim(worker)
        if fail:
            table.finish(worker, [failure(unit) for unit in units])
            return
        data, places = build_pack([(unit.id, payload.encode(OUTPUTS)) for unit in units])
        pack = new_pack(len(units))
        table.stage(worker, [unit.id for unit in units], pack)
        open_store(f"{tmp_path}/objects").put(pack.key, data)
        outcomes = [
            Success(unit.id, unit.attempt, pack.id, *place, None)
            for unit, place in zip(units, places, strict=True)
        ]
        table.finish(worker, outcomes, [pack.id])

    return work


class TestSubmit:
    @pytest.mark.parametrize("name", ["i.npz", "i.npy", "columns.json", "records.json"])
    def test_every_record_of_a_file(self, run, table, tmp_path, name) -> None:
        images = np.zeros((3, 2, 2), np.float32)
        np.savez(tmp_path / "i.npz", image=images)
        np.save(tmp_path / "i.npy", images)
        (tmp_path / "columns.json").write_text(json.dumps({"image": images.tolist()}))
        (tmp_path / "records.json").write_text(
            json.dumps([{"image": image} for image in images.tolist()])
        )
        done = run("submit", "digits", "--inputs", name)
        assert done.exit_code == 0, done.output
        assert table.states([JobId(id) for id in done.stdout.split()]) == ["queued"] * 3
        assert done.stderr == "3 jobs queued\n"

    def test_options_reach_the_jobs(self, run, table, tmp_path) -> None:
        (tmp_path / "i.json").write_text(json.dumps([{"left": [1.0, 2.0], "note": "n"}]))
        arguments = ("submit", "pair@1", "--inputs", "i.json", "--priority", "high", "--json")
        arguments += ("--deadline", 60, "--idempotency-key", "once", "--tenant", "t")
        (id,) = json.loads(run(*arguments).stdout)["jobs"]
        assert json.loads(run(*arguments).stdout)["jobs"] == [id]
        job = table.get(id)
        assert job.priority.queue == "high"
        assert job.deadline is not None

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("i.json", b"{"),
            ("i.json", b"3"),
            ("i.json", b"[]"),
            ("i.npz", b"PK"),
            ("i.npy", b""),
            ("i.csv", b"1,2"),
        ],
    )
    def test_a_file_of_no_records_is_named(self, run, tmp_path, name, content) -> None:
        (tmp_path / name).write_bytes(content)
        failed = run("submit", "digits", "--inputs", name)
        assert failed.exit_code == 1
        assert failed.stderr.startswith(f"Error: {name}: no .npz, .npy or .json of records")
        assert failed.stderr.count("\n") == 1

    def test_what_does_not_fit_is_one_line(self, run, tmp_path) -> None:
        (tmp_path / "i.json").write_text("[[1]]")
        for model, told in (("digits", "image"), ("nothing", "'nothing'"), ("digits@9", "9")):
            failed = run("submit", model, "--inputs", "i.json")
            assert failed.exit_code == 1
            assert failed.stdout == ""
            assert told in failed.stderr
            assert failed.stderr.count("\n") == 1


class TestList:
    def test_newest_first_by_page(self, run, submit) -> None:
        ids = submit(3)
        first = run("list", "--limit", 2)
        assert [id for id in ids if id in first.stdout] == ids[1:]
        cursor = first.stderr.split()[-1]
        second = run("list", "--cursor", cursor)
        assert [id for id in ids if id in second.stdout] == ids[:1]
        assert second.stderr == ""

    def test_as_json_by_state(self, run, submit, work) -> None:
        (done,) = submit()
        work()
        (failed,) = submit()
        work(fail=True)
        (queued,) = submit()

        def listed(*arguments: str) -> list[str]:
            page = json.loads(run("list", "--json", *arguments).stdout)
            assert page["cursor"] is None
            return [job["id"] for job in page["jobs"]]

        assert listed() == [queued, failed, done]
        assert listed("--state", "failed", "--state", "queued") == [queued, failed]
        assert listed("--model", "pair") == []
        assert listed("--since", "1h") == [queued, failed, done]
        assert listed("--until", "1h") == []
        assert listed("--since", "2020-01-01T00:00", "--until", "2020-01-02T00:00+01:00") == []
        assert listed("--code", "model_error") == [failed]
        assert listed("--code", "quarantined") == []
        assert "model_error: no good" in run("list", "--state", "failed").stdout

    @pytest.mark.parametrize("text", ["yesterday", "5y", "-1h", "9999999999d"])
    def test_a_wrong_time_is_wrong_usage(self, run, text) -> None:
        failed = run("list", f"--since={text}")
        assert failed.exit_code == 2
        assert "15m" in failed.stderr


class TestOne:
    def test_status_says_what_it_waits_for(self, run, submit) -> None:
        (id,) = submit()
        shown = run("status", id)
        assert shown.exit_code == 0
        assert id in shown.stdout
        assert "none serves pool 'default'" in shown.stdout
        as_json = json.loads(run("status", id, "--json").stdout)
        assert (as_json["state"], as_json["model"], as_json["error"]) == (
            "queued",
            "digits@1",
            None,
        )

    def test_result_in_every_form(self, run, submit, work, tmp_path) -> None:
        (id,) = submit()
        work()
        assert "float32[3]" in run("result", id).stdout
        as_json = json.loads(run("result", id, "--json").stdout)
        assert as_json == {
            "scores": [0, 1, 2],
            "text": "three",
            "blob": "AAE=",
            "tree": {"a": [1, None]},
        }

    def test_a_failed_one_has_no_result(self, run, submit, work) -> None:
        (id,) = submit()
        work(fail=True)
        failed = run("result", id)
        assert failed.exit_code == 1
        assert failed.stderr == f"Error: job {id}: model_error: no good\n"

    def test_a_damaged_result_is_named(self, run, submit, work, tmp_path) -> None:
        (id,) = submit()
        work()
        (pack,) = (tmp_path / "objects" / "results").iterdir()
        data = bytearray(pack.read_bytes())
        data[len(data) // 2] ^= 1
        pack.write_bytes(data)
        failed = run("result", id)
        assert failed.exit_code == 1
        assert id in failed.stderr
        assert pack.name in failed.stderr

    @pytest.mark.parametrize("command", ["status", "result", "wait"])
    def test_an_unknown_one(self, run, command) -> None:
        failed = run(command, "0197-no-such-job")
        assert failed.exit_code == 1
        assert "does not exist" in failed.stderr
        assert failed.stderr.strip().splitlines()[-1].startswith("Error: ")


class TestPause:
    def test_a_job_that_is_held_up_says_why(self, run, submit, work, table) -> None:
        (id,) = submit()
        done = run("pause", "digits@1", "--reason", "bad weights")
        assert (done.exit_code, done.stdout) == (0, "digits@1 is paused\n")
        assert "bad weights" in run("paused").stdout
        assert "bad weights" in json.loads(run("status", id, "--json").stdout)["detail"]
        (listed,) = json.loads(run("paused", "--json").stdout)
        assert (listed["what"], listed["reason"]) == ("digits@1", "bad weights")
        assert table.claim(table.worker()) == []
        assert run("resume", "digits@1").stdout == "resumed\n"
        assert "not paused" in run("resume", "digits@1").stdout
        assert len(table.claim(table.worker())) == 1

    @pytest.mark.parametrize("wrong", [(), ("digits", "--pool", "default"), ("--pool", "gpu")])
    def test_of_nothing_is_an_error(self, run, wrong) -> None:
        assert run("pause", *wrong).exit_code == Exit.FAILED


class TestMany:
    def test_wait_tells_how_they_ended(self, run, submit, work) -> None:
        ids = submit(2)
        work()
        waited = run("wait", "-", stdin="\n".join(ids))
        assert (waited.exit_code, waited.stdout) == (0, "2 succeeded\n")
        bad = submit()
        work(fail=True)
        waited = run("wait", *ids, *bad, "--json")
        assert waited.exit_code == 1
        assert json.loads(waited.stdout)["counts"] == {"succeeded": 2, "failed": 1}

    def test_wait_ends_in_time(self, run, submit) -> None:
        ids = submit(2)
        waited = run("wait", *ids, "--timeout", 0)
        assert waited.exit_code == Exit.TIMED_OUT
        assert "2 of 2 jobs were not done after 0 s" in waited.stderr
        assert run("result", ids[0], "--timeout", 0).exit_code == Exit.TIMED_OUT

    def test_no_ids_on_stdin(self, run) -> None:
        failed = run("wait", "-")
        assert failed.exit_code == 1
        assert "stdin" in failed.stderr

    def test_cancel_says_which(self, run, submit, work, table) -> None:
        done = submit()
        work()
        queued = submit(2)
        cancelled = run("cancel", *done, *queued)
        assert cancelled.exit_code == 0
        assert sorted(cancelled.stdout.split()) == sorted(queued)
        assert cancelled.stderr == "2 of 3 cancelled\n"
        assert table.states(queued) == ["cancelled"] * 2
        again = run("cancel", "-", "--json", stdin=" ".join(queued))
        assert json.loads(again.stdout) == {"cancelled": []}


class TestReplay:
    def test_of_one(self, run, submit, work, table) -> None:
        ids = submit(2)
        work(fail=True)
        done = submit()
        work()
        assert run("replay", ids[0], *done, "--dry-run").stdout == "1 jobs would be queued again\n"
        assert table.states(ids) == ["failed"] * 2
        assert run("replay", ids[0], *done).stdout == "1 jobs queued again\n"
        assert table.states([*ids, *done]) == ["queued", "failed", "succeeded"]
        as_json = run("replay", "-", "--json", stdin="\n".join(ids))
        assert json.loads(as_json.stdout) == {"jobs": 1, "dry_run": False}

    def test_by_filter_in_pages(self, run, submit, work, table, monkeypatch) -> None:
        monkeypatch.setattr("headrace.cli.replay._AT_ONCE", 2)
        ids = submit(5)
        work(fail=True)
        late = submit(2)
        run("cancel", *late)
        for no in (("--code", "quarantined"), ("--model", "pair"), ("--until", "1h")):
            assert run("replay", *no).stdout == "0 jobs queued again\n"
        assert run("replay", "--all", "--dry-run").stdout == "5 jobs would be queued again\n"
        chosen = ("--code", "model_error", "--since", "1h", "--model", "digits@1")
        assert run("replay", *chosen, "--deadline", 60).stdout == "5 jobs queued again\n"
        assert {table.get(id).deadline is None for id in ids} == {False}
        assert run("replay", "--state", "cancelled").stdout == "2 jobs queued again\n"
        assert table.states([*ids, *late]) == ["queued"] * 7

    def test_of_nothing_or_both_is_wrong_usage(self, run) -> None:
        assert run("replay").exit_code == Exit.USAGE
        assert run("replay", "a-job", "--all").exit_code == Exit.USAGE
        assert run("replay", "--all", "--deadline", 0).exit_code == Exit.USAGE


def test_arrays_go_to_a_file(run, table, submit, work, tmp_path) -> None:
    (id,) = submit()
    work()
    done = run("result", id, "--output", "out.npz")
    assert done.exit_code == 0, done.output
    with np.load(io.BytesIO((tmp_path / "out.npz").read_bytes()), allow_pickle=False) as saved:
        assert saved["scores"].tolist() == [0, 1, 2]
        assert saved.files == ["scores"], "what is no tensor has no place in an .npz"
    assert run("result", id, "--output", "no/folder/out.npz").exit_code == 1


def test_a_job_table_that_is_not_there(run, monkeypatch) -> None:
    monkeypatch.setenv("HEADRACE_DATABASE_URL", "postgresql://u:hush@127.0.0.1:9/d")
    failed = run("list")
    assert failed.exit_code == Exit.UNAVAILABLE
    assert "hush" not in failed.output


def test_ctrl_c_is_130(run, submit, monkeypatch) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    (id,) = submit()
    monkeypatch.setattr("headrace.client.Client.wait", interrupted)
    assert run("wait", id).exit_code == Exit.INTERRUPTED
