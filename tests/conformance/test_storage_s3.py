"""What only a bucket can get wrong: lost answers, busy servers, broken connections."""

import base64
import hashlib
import json
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from headrace.errors import (
    ConfigError,
    ObjectCorrupt,
    ObjectExists,
    ObjectMissing,
    StorageError,
    StoreUnavailable,
)
from headrace.settings import load_settings
from headrace.storage import open_store
from headrace.storage.s3 import S3Store
from headrace.storage.s3_upload import PART_BYTES
from tests.conformance.s3_faults import (
    answer,
    damage,
    hang,
    lost,
    refuse,
    reset,
    shorten,
    truncate,
    without,
)

pytestmark = [
    pytest.mark.parametrize("store_url", ["s3"], indirect=True),
    pytest.mark.usefixtures("no_pauses"),
]


@pytest.fixture
def make(store_url, between):
    def make(**changes: object) -> S3Store:
        chosen = {"s3_retries": 2, "s3_read_timeout": 10} | changes
        return S3Store(
            load_settings(**{"store_url": store_url, "s3_endpoint": between.url} | chosen)
        )

    return make


@pytest.fixture
def store(make) -> S3Store:
    return make()


@pytest.fixture
def big(tmp_path):
    path = tmp_path / "big"
    path.write_bytes(os.urandom(2 * PART_BYTES + 7))
    return path


def keys(store) -> list[str]:
    return [info.key for info in store.list()]


def uploads(store) -> int:
    """Uploads in parts that were begun and neither completed nor aborted."""
    listed = store._client.get().list_multipart_uploads(Bucket=store._bucket, Prefix=store._prefix)
    return len(listed.get("Uploads", ()))


class TestTidy:
    def begin(self, store: S3Store, key: str) -> str:
        at = {"Bucket": store._bucket, "Key": f"{store._prefix}/{key}"}
        return store._client.get().create_multipart_upload(**at)["UploadId"]

    def test_aborts_uploads_below_the_prefix_alone_some_at_a_time(self, store, make):
        """moto says of every upload that it was begun in 2010."""
        beside = make(store_url=f"{store.url}-beside")
        self.begin(beside, "a")
        for key in ("a", "b/c", "d"):
            self.begin(store, key)
        store.put("kept", b"kept")
        assert [store.tidy(3600, 2) for _ in range(3)] == [2, 1, 0]
        assert (uploads(store), keys(store)) == (1, ["kept"]), "the other's is listed here too"
        assert uploads(beside) == 1

    def test_young_ones_stay_and_every_page_is_read(self, store, between):
        old, young = datetime(2020, 1, 1), datetime.now(UTC)
        for last, key, begun in ((False, "young", young), (False, "old", old), (True, "x", old)):
            text = f"""<?xml version="1.0"?><ListMultipartUploadsResult>
              <IsTruncated>{str(not last).lower()}</IsTruncated>
              <NextKeyMarker>{key}</NextKeyMarker><NextUploadIdMarker>{key}</NextUploadIdMarker>
              <Upload><Key>{store._prefix}/{key}</Key><UploadId>{key}-id</UploadId>
              <Initiated>{begun:%Y-%m-%dT%H:%M:%S.000Z}</Initiated></Upload>
              </ListMultipartUploadsResult>"""
            xml = {"Content-Type": "application/xml"}
            between.next("GET", answer(200, xml, text.encode()))
        between.next("DELETE", answer(204, {}, b""), refuse(404, "NoSuchUpload"))
        assert store.tidy(3600, 9) == 2
        aborted = [request.path for request in between.seen if request.method == "DELETE"]
        assert [path.rpartition("uploadId=")[2] for path in aborted] == ["old-id", "x-id"]

    def test_a_refusal_says_which_right_is_missing(self, store, between):
        between.next("GET", refuse(403, "AccessDenied"))
        with pytest.raises(StorageError, match="ListBucketMultipartUploads"):
            store.tidy(3600, 9)


PASSING = {
    "500": refuse(500, "InternalError"),
    "503": refuse(503, "SlowDown"),
    "429": refuse(429, "TooManyRequests"),
    "reset": reset,
    "timeout": hang(1),
}
HASTY = {"s3_read_timeout": 0.4}
passing = pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)


class TestWhatPasses:
    @passing
    def test_every_call_survives_it(self, make, between, fault, tmp_path):
        store = make(**HASTY, s3_retries=5)
        between.next("PUT", fault)
        store.put("k", b"content")
        between.next("GET", fault)
        assert store.get("k") == b"content"
        between.next("GET", fault)
        assert store.get("k", 2, 3) == b"nte"
        between.next("GET", fault)
        store.get_file("k", tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == b"content"
        between.next("GET", fault)
        assert keys(store) == ["k"]
        between.next("POST", fault)
        store.delete(["k"])
        assert keys(store) == []

    @passing
    def test_when_it_lasts_the_store_is_unavailable(self, make, between, fault, tmp_path):
        store = make(**HASTY, s3_retries=1)
        for method, call in (
            ("PUT", lambda: store.put("k", b"v")),
            ("GET", lambda: store.get("k")),
            ("GET", lambda: store.get("k", 1, 1)),
            ("GET", lambda: store.get_file("k", tmp_path / "out")),
            ("GET", lambda: keys(store)),
            ("POST", lambda: store.delete(["k"])),
        ):
            between.next(method, fault, fault)
            with pytest.raises(StoreUnavailable, match=store._bucket) as caught:
                call()
            assert caught.value.retryable
        assert list(tmp_path.iterdir()) == []

    def test_the_number_of_tries_is_the_settings(self, make, between):
        between.next("GET", *[refuse(503, "SlowDown")] * 5)
        with pytest.raises(StoreUnavailable):
            make(s3_retries=4).get("k")
        assert between.count("GET") == 5

    def test_a_server_that_is_not_there(self, make):
        store = make(s3_endpoint="http://127.0.0.1:9")
        with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:9"):
            store.put("k", b"v")


class TestLostAnswers:
    """The first try did it, and the writer does not know."""

    @passing
    def test_a_put_is_done_once_and_well(self, make, between, fault):
        store = make(**HASTY, s3_retries=5)
        between.next("PUT", lost(fault))
        store.put("k", b"content")
        assert store.get("k") == b"content"
        assert between.count("PUT") >= 2

    @passing
    def test_the_caller_may_put_again(self, make, store, between, fault):
        between.next("PUT", lost(fault))
        with pytest.raises(StoreUnavailable):
            make(**HASTY, s3_retries=0).put("k", b"content")
        store.put("k", b"content")
        with pytest.raises(ObjectExists, match="other content"):
            store.put("k", b"another")
        assert store.get("k") == b"content"

    @pytest.mark.parametrize("fault", [PASSING["500"], PASSING["reset"]], ids=["500", "reset"])
    def test_an_upload_in_parts_likewise(self, make, between, fault, big):
        store = make(s3_retries=0)
        # CreateMultipartUpload, then CompleteMultipartUpload.
        between.next("POST", lambda handler, request: handler.answer(*handler.ask(request)))
        between.next("POST", lost(fault))
        with pytest.raises(StoreUnavailable):
            store.put_file("k", big)
        store.put_file("k", big)
        assert store.get("k") == big.read_bytes()
        assert between.count("POST") == 2, "the second time only looked"
        assert uploads(store) == 0

    def test_a_completed_upload_that_is_gone_is_looked_for(self, store, between, big):
        between.next("POST", lambda handler, request: handler.answer(*handler.ask(request)))
        between.next("POST", lost(refuse(404, "NoSuchUpload")))
        store.put_file("k", big)
        assert store.get("k") == big.read_bytes()


class TestConditions:
    def test_a_foreign_object_without_digest_counts_as_other_content(self, store):
        store._client.get().put_object(**store._at("k"), Body=b"content")
        with pytest.raises(ObjectExists):
            store.put("k", b"content")
        assert store.get("k") == b"content"

    @pytest.mark.parametrize("code", ["ConditionalRequestConflict", "OperationAborted"])
    def test_a_conflict_is_tried_again(self, store, between, code):
        between.next("PUT", refuse(409, code), refuse(409, code))
        store.put("k", b"v")
        assert store.get("k") == b"v"

    def test_a_conflict_that_the_same_content_won_is_done(self, store, between):
        between.next("PUT", lost(refuse(409, "ConditionalRequestConflict")))
        store.put("k", b"v")
        assert between.count("PUT") == 1

    def test_a_conflict_that_other_content_won_is_lost(self, make, store, between):
        open_store(store.url).put("k", b"theirs")
        between.next("PUT", refuse(409, "ConditionalRequestConflict"))
        with pytest.raises(ObjectExists):
            store.put("k", b"ours")

    def test_a_conflict_without_end_is_unavailable(self, store, between):
        between.next("PUT", *[refuse(409, "ConditionalRequestConflict")] * 5)
        with pytest.raises(StoreUnavailable):
            store.put("k", b"v")

    def test_an_object_deleted_between_refusal_and_look_is_written(self, store, between):
        between.next("PUT", refuse(412, "PreconditionFailed"))
        store.put("k", b"v")
        assert store.get("k") == b"v"

    def test_parts_start_anew_after_a_conflict_and_leave_nothing(self, store, between, big):
        between.next("POST", lambda handler, request: handler.answer(*handler.ask(request)))
        between.next("POST", refuse(409, "ConditionalRequestConflict"))
        store.put_file("k", big)
        assert store.get("k") == big.read_bytes()
        assert between.count("POST") == 4
        assert uploads(store) == 0

    def test_parts_do_not_overwrite_who_came_meanwhile(self, store, between, big):
        def meanwhile(handler, request) -> None:
            open_store(store.url).put("k", b"theirs")
            handler.answer(*handler.ask(request))

        between.next("POST", meanwhile)
        with pytest.raises(ObjectExists):
            store.put_file("k", big)
        assert store.get("k") == b"theirs"
        assert uploads(store) == 0

    def test_a_part_that_cannot_be_sent_leaves_nothing(self, make, between, big):
        store = make(s3_retries=0)
        between.next("PUT", refuse(503, "SlowDown"))
        with pytest.raises(StoreUnavailable):
            store.put_file("k", big)
        assert uploads(store) == 0
        assert keys(store) == []


class TestBodies:
    @pytest.fixture(autouse=True)
    def content(self, store, between):
        store.put("k", b"0123456789")
        between.seen.clear()

    def test_a_body_that_breaks_off_is_read_again(self, store, between, tmp_path):
        between.next("GET", truncate)
        assert store.get("k") == b"0123456789"
        between.next("GET", truncate)
        assert store.get("k", 2, 6) == b"234567"
        between.next("GET", truncate)
        store.get_file("k", tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == b"0123456789"
        assert os.listdir(tmp_path) == ["out"]

    def test_for_as_often_as_the_settings_say(self, store, between, tmp_path):
        between.next("GET", *[truncate] * 3)
        with pytest.raises(StoreUnavailable, match="broke off"):
            store.get("k")
        between.next("GET", *[truncate] * 3)
        with pytest.raises(StoreUnavailable, match="broke off"):
            store.get_file("k", tmp_path / "out")
        assert list(tmp_path.iterdir()) == []

    def test_a_whole_object_is_held_to_its_digest(self, store, between, tmp_path):
        for fault in (damage, shorten):
            between.next("GET", fault, fault)
            with pytest.raises(ObjectCorrupt, match=r"'k'.*sha256"):
                store.get("k")
            with pytest.raises(ObjectCorrupt, match=r"'k'.*sha256"):
                store.get_file("k", tmp_path / "out")
        assert list(tmp_path.iterdir()) == []

    def test_a_range_is_held_to_its_length(self, store, between):
        between.next("GET", shorten)
        with pytest.raises(ObjectCorrupt, match="bytes 2 to 8 were wanted"):
            store.get("k", 2, 6)

    def test_a_server_that_knows_no_ranges(self, store, between):
        between.next("GET", without("Range"), without("Range"), without("Range"))
        assert store.get("k", 2, 3) == b"234"
        assert store.get("k", 7) == b"789"
        with pytest.raises(ObjectCorrupt, match="10 bytes long"):
            store.get("k", 8, 3)

    def test_a_range_costs_one_request(self, store, between):
        store.get("k", 2, 3)
        assert [request.method for request in between.seen] == ["GET"]

    def test_a_foreign_object_has_no_digest_to_hold_it_to(self, store):
        store._client.get().put_object(**store._at("foreign"), Body=b"v")
        assert store.get("foreign") == b"v"


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "code", "told"),
        [
            (403, "AccessDenied", "denied.*AccessDenied"),
            (403, "SignatureDoesNotMatch", "denied"),
            (403, "InvalidAccessKeyId", "denied"),
            (404, "NoSuchBucket", "does not exist.*HEADRACE_STORE_URL"),
            (301, "PermanentRedirect", "HEADRACE_S3_REGION"),
            (400, "KMS.NotFoundException", "HEADRACE_S3_SSE_KMS_KEY"),
            (501, "NotImplemented", "conditional writes"),
            (400, "InvalidArgument", "InvalidArgument: told to say"),
        ],
    )
    def test_what_does_not_pass_says_what_to_do(self, make, between, status, code, told):
        store = make(s3_retries=0)
        # A redirect has boto3 ask where the bucket is, and try there.
        between.next("PUT", *[refuse(status, code)] * (2 if status == 301 else 1))
        with pytest.raises(StorageError, match=told) as caught:
            store.put("k", b"v")
        assert store._bucket in str(caught.value)
        assert not caught.value.retryable

    @pytest.mark.parametrize(
        ("status", "code"),
        [(400, "RequestTimeout"), (400, "ExpiredToken"), (403, "RequestTimeTooSkewed")],
    )
    def test_what_passes_is_no_lasting_refusal(self, make, between, status, code):
        between.next("GET", refuse(status, code))
        with pytest.raises(StoreUnavailable):
            make(s3_retries=0).get("k")

    def test_a_bucket_that_is_not_there(self, make):
        store = make(store_url="s3://no-such-bucket-here/prefix")
        for call in (lambda: store.put("k", b""), lambda: store.get("k"), lambda: keys(store)):
            with pytest.raises(StorageError, match=r"'no-such-bucket-here'.*does not exist"):
                call()

    def test_without_credentials(self, make, monkeypatch, tmp_path):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        with pytest.raises(ConfigError, match=r"credentials.*usual chain"):
            make().put("k", b"v")

    def test_a_profile_that_is_not_there(self, make, monkeypatch):
        monkeypatch.setenv("AWS_PROFILE", "nobody")
        with pytest.raises(ConfigError, match="nobody"):
            make().put("k", b"v")


class TestManyKeys:
    def test_more_than_a_page_and_a_batch(self, store, between):
        names = [f"many/{index:04}" for index in range(1003)]
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda name: store.put(name, b""), names))
        assert keys(store) == names
        between.seen.clear()
        store.delete(names)
        assert between.count("POST") == 2
        assert keys(store) == []

    def failing(self, code: str, key: str):
        text = (
            f"<DeleteResult><Error><Key>{key}</Key><Code>{code}</Code>"
            "<Message>told to</Message></Error></DeleteResult>"
        )
        return answer(200, {"Content-Type": "application/xml"}, text.encode())

    def test_a_key_that_could_not_be_deleted_just_now_is_tried_again(self, store, between):
        store.put("a", b"")
        between.next("POST", self.failing("InternalError", store._at("a")["Key"]))
        store.delete(["a"])
        assert keys(store) == []
        assert between.count("POST") == 2

    def test_one_that_never_can_is_named(self, store, between):
        between.next("POST", self.failing("AccessDenied", store._at("a")["Key"]))
        with pytest.raises(StorageError, match=r"/a'.*denied"):
            store.delete(["a", "b"])
        between.next("POST", *[self.failing("InternalError", store._at("a")["Key"])] * 5)
        with pytest.raises(StoreUnavailable, match="/a'"):
            store.delete(["a", "b"])

    def test_objects_of_others_beside_ours_are_not_listed(self, store):
        client = store._client.get()
        for name in (f"{store._prefix}-other/k", f"{store._prefix}/folder/", f"{store._prefix}/ä"):
            client.put_object(Bucket=store._bucket, Key=name, Body=b"")
        store.put("k", b"")
        assert keys(store) == ["k"]


class TestRequests:
    def header(self, between, method: str, name: str) -> list[str | None]:
        return [
            {k.lower(): v for k, v in request.headers.items()}.get(name)
            for request in between.seen
            if request.method == method
        ]

    def test_checksums_are_those_that_every_server_knows(self, store, between, big):
        store.put("k", b"content")
        store.put_file("big", big)
        store.delete(["k"])
        for request in between.seen:
            names = {name.lower() for name in request.headers}
            assert not {n for n in names if n.startswith(("x-amz-checksum", "x-amz-trailer"))}
            assert not {n for n in names if n.startswith("x-amz-sdk-checksum")}
            sends_body = request.method == "PUT" or request.path.endswith("?delete")
            if sends_body:
                want = base64.b64encode(hashlib.md5(request.body).digest()).decode()
                assert {k.lower(): v for k, v in request.headers.items()}["content-md5"] == want

    def test_encryption_is_asked_for_wherever_an_object_begins(self, make, between, big):
        store = make(s3_sse="aws:kms", s3_sse_kms_key="arn:aws:kms:eu-west-1:1:key/ours")
        store.put("k", b"v")
        store.put_file("big", big)
        name = "x-amz-server-side-encryption"
        assert self.header(between, "PUT", name)[0] == "aws:kms"
        assert self.header(between, "PUT", f"{name}-aws-kms-key-id")[0].endswith("key/ours")
        assert self.header(between, "POST", name)[0] == "aws:kms"
        assert self.header(between, "POST", f"{name}-aws-kms-key-id")[0].endswith("key/ours")

    def test_no_encryption_is_asked_for_by_default(self, store, between):
        store.put("k", b"v")
        assert self.header(between, "PUT", "x-amz-server-side-encryption") == [None]

    @pytest.mark.parametrize(
        ("addressing", "want"),
        [("path", "https://s3.example.org/bucket/"), ("virtual", "https://bucket.s3.example.org/")],
    )
    def test_addressing_and_region(self, make, addressing, want):
        store = make(
            store_url="s3://bucket/p",
            s3_endpoint="https://s3.example.org",
            s3_addressing=addressing,
            s3_region="eu-north-1",
        )
        client = store._client.get()
        address = client.generate_presigned_url("get_object", Params=store._at("k"))
        assert address.startswith(f"{want}p/k?")
        assert "eu-north-1" in address

    def test_without_an_endpoint_it_is_amazons(self, make):
        store = make(store_url="s3://bucket", s3_endpoint=None, s3_region="eu-north-1")
        assert store._client.get().meta.endpoint_url == "https://s3.eu-north-1.amazonaws.com"

    def test_timeouts_and_connections_are_the_settings(self, make):
        config = (
            make(io_threads=7, s3_read_timeout=3, s3_connect_timeout=2)._client.get().meta.config
        )
        assert (config.max_pool_connections, config.read_timeout, config.connect_timeout) == (
            7,
            3,
            2,
        )


class TestOneClient:
    def test_it_has_a_connection_for_every_thread_and_no_more(
        self, make, between, tmp_path, monkeypatch, caplog
    ):
        least = 5 * 1024 * 1024
        monkeypatch.setattr("headrace.storage.s3_upload.PART_BYTES", least)
        path = tmp_path / "parts"
        path.write_bytes(bytes(6 * least))
        together = threading.Barrier(3, timeout=10)

        def meet(handler, request) -> None:
            together.wait()
            handler.answer(*handler.ask(request))

        between.next("PUT", *[meet] * 6)
        make(io_threads=3).put_file("k", path)
        sent = {request.connection for request in between.seen if request.method == "PUT"}
        assert len(sent) == 3
        assert not caplog.records, "urllib3 complains where it throws a connection away"

    def test_threads_share_one(self, store):
        barrier = threading.Barrier(8)

        def client(_: int) -> object:
            barrier.wait()
            return store._client.get()

        with ThreadPoolExecutor(8) as pool:
            assert len(set(map(id, pool.map(client, range(8))))) == 1

    def test_a_fork_makes_its_own(self, store):
        mine = store._client.get()
        pid = os.fork()
        if pid == 0:
            os._exit(0 if store._client.get() is not mine else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert store._client.get() is mine


class TestUrls:
    @pytest.mark.parametrize(
        ("url", "want"),
        [
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/", "s3://bucket"),
            ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ],
    )
    def test_good_ones(self, make, url, want):
        assert make(store_url=url).url == want

    @pytest.mark.parametrize(
        "url",
        ["s3://", "s3:///p", "s3://key:hush@bucket/p", "s3://bucket/p?x=1", "s3://bucket/a//b"],
    )
    def test_bad_ones_are_refused_unseen(self, make, url):
        with pytest.raises(ConfigError, match="HEADRACE_STORE_URL") as caught:
            make(store_url=url)
        assert "hush" not in str(caught.value)

    def test_a_missing_object_names_key_and_bucket(self, store):
        with pytest.raises(ObjectMissing, match=f"'a/b'.*{store._bucket}"):
            store.get("a/b")


def test_the_lifecycle_rule_of_the_handbook_is_one(store):
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8")
    policy, lifecycle = map(json.loads, re.findall(r"^```json\n(.*?)^```$", page, re.M | re.S))
    client, bucket = store._client.get(), store._bucket
    client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=lifecycle)
    (rule,) = client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 2}
    assert "Expiration" not in rule
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    client.delete_bucket_policy(Bucket=bucket)
    client.delete_bucket_lifecycle(Bucket=bucket)
