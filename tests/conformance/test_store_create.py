"""`headrace store create` makes what a store needs, once, and tries it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from headrace.cli import main
from headrace.settings import load_settings
from headrace.storage import open_store
from tests.conformance.s3_faults import Proxy, answer, proxy, refuse, without


@pytest.fixture(params=["folder", "bucket"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "folder":
        return str(tmp_path / "new" / "store")
    monkeypatch.setenv("HEADRACE_S3_ENDPOINT", request.getfixturevalue("s3_endpoint"))
    monkeypatch.setenv("HEADRACE_S3_REGION", "eu-central-1")
    return f"s3://new-{tmp_path.name.replace('_', '-').lower()[:40]}/below"


@pytest.fixture
def between(store_url: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with proxy(s3_endpoint) as between:
        monkeypatch.setenv("HEADRACE_S3_ENDPOINT", between.url)
        monkeypatch.setenv("HEADRACE_S3_RETRIES", "0")
        yield between


def create(url: str) -> Result:
    return CliRunner().invoke(main, ["store", "create"], env={"HEADRACE_STORE_URL": url})


def test_it_makes_the_bucket_or_folder_once_and_keeps_what_is_there(url: str) -> None:
    store = open_store(load_settings(store_url=url))
    assert (create(url).output, create(url).output) == (f"made {url}\n", f"found {url}\n")
    store.put("a", b"1")
    assert create(url).exit_code == 0
    assert [info.key for info in store.list()] == ["a"]


@pytest.mark.parametrize("store_url", ["s3"], indirect=True)
class TestRehearsal:
    def test_it_needs_no_right_to_see_other_buckets(self, store_url: str, between: Proxy) -> None:
        assert create(store_url).exit_code == 0
        bucket = store_url.split("/")[2]
        assert all(request.path.startswith(f"/{bucket}") for request in between.seen)

    @pytest.mark.parametrize(
        ("method", "fault"),
        [
            ("HEAD", answer(403, {}, b"")),
            ("PUT", refuse(403, "AccessDenied")),
            ("GET", refuse(403, "AccessDenied")),
            ("POST", refuse(403, "AccessDenied")),
        ],
    )
    def test_what_is_denied_is_said_at_once(
        self, store_url: str, between: Proxy, method: str, fault
    ) -> None:
        between.next(method, fault)
        said = create(store_url)
        assert said.exit_code == 1
        assert "credentials need s3:GetObject" in said.output

    def test_a_server_without_conditional_writes_is_refused(
        self, store_url: str, between: Proxy
    ) -> None:
        between.next("PUT", refuse(501, "NotImplemented"))
        assert "lacks what Headrace needs" in create(store_url).output

    def test_one_that_ignores_the_condition_is_told_of_and_serves(
        self, store_url: str, between: Proxy
    ) -> None:
        between.next("PUT", *[without("If-None-Match")] * 3)
        said = create(store_url)
        assert said.exit_code == 0
        assert "Warning: this server overwrites" in said.output
        assert not between.unused()
        assert list(open_store(store_url).list()) == []
