"""Every object store keeps the same promises."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headrace.errors import (
    ObjectCorrupt,
    ObjectExists,
    ObjectMissing,
    StorageError,
    StoreUnavailable,
)
from headrace.storage import ObjectStore, open_store
from headrace.storage.keys import MAX_KEY, MAX_PART
from headrace.storage.local import LocalStore


@pytest.fixture
def store(store_url: str) -> ObjectStore:
    return open_store(store_url)


def every_store(test):
    """Run `test` over each kind of store; a new one joins here and in `store_url`."""
    return pytest.mark.parametrize("store_url", ["local", "s3"], indirect=True)(test)


def keys(store: ObjectStore, prefix: str = "") -> list[str]:
    return [info.key for info in store.list(prefix)]


@every_store
class TestPutAndGet:
    def test_what_is_put_is_got(self, store):
        digest = store.put("results/a=1/x@2.bin", b"\x00payload")
        assert digest == hashlib.sha256(b"\x00payload").hexdigest()
        assert store.get("results/a=1/x@2.bin") == b"\x00payload"

    def test_an_empty_object_is_an_object(self, store):
        store.put("empty", b"")
        assert store.get("empty") == b""
        assert [(info.key, info.size) for info in store.list()] == [("empty", 0)]

    def test_a_key_is_never_overwritten(self, store):
        store.put("k", b"first")
        with pytest.raises(ObjectExists) as caught:
            store.put("k", b"second")
        assert caught.value.key == "k"
        assert store.get("k") == b"first"

    @pytest.mark.parametrize("other", [b"", b"firs", b"first!", b"fierst", b"x" * 3 * 1024 * 1024])
    def test_the_same_content_again_is_done_and_any_other_is_refused(self, store, other):
        store.put("k", b"first")
        store.put("k", b"first")
        with pytest.raises(ObjectExists):
            store.put("k", other)
        assert store.get("k") == b"first"

    def test_a_missing_object_is_named(self, store):
        with pytest.raises(ObjectMissing, match="'a/b'"):
            store.get("a/b")

    def test_a_folder_is_no_object(self, store):
        store.put("a/b", b"")
        with pytest.raises(ObjectMissing):
            store.get("a")
        with pytest.raises(ObjectMissing):
            store.get("a/b/c")

    def test_another_client_sees_it(self, store):
        store.put("k", b"v")
        assert open_store(store.url).get("k") == b"v"


@every_store
class TestRanges:
    @pytest.fixture(autouse=True)
    def digits(self, store):
        store.put("digits", b"0123456789")

    @pytest.mark.parametrize(
        ("offset", "length", "want"),
        [
            (0, 3, b"012"),
            (4, 2, b"45"),
            (8, 2, b"89"),
            (7, None, b"789"),
            (3, 0, b""),
            (10, 0, b""),
            (10, None, b""),
            (99, None, b""),
        ],
    )
    def test_a_range_gives_its_bytes(self, store, offset, length, want):
        assert store.get("digits", offset, length) == want

    @pytest.mark.parametrize(("offset", "length"), [(8, 3), (10, 1), (99, 0), (0, 10**15)])
    def test_a_range_past_the_end_is_corrupt(self, store, offset, length):
        with pytest.raises(ObjectCorrupt, match="10 bytes long"):
            store.get("digits", offset, length)

    @pytest.mark.parametrize(("offset", "length"), [(-1, None), (0, -1)])
    def test_negative_ranges_are_refused(self, store, offset, length):
        with pytest.raises(ValueError, match="count bytes"):
            store.get("digits", offset, length)


@every_store
class TestFiles:
    def test_a_file_goes_in_and_comes_out(self, store, tmp_path):
        content = os.urandom(3 * 1024 * 1024 + 5)
        (tmp_path / "in").write_bytes(content)
        store.put_file("models/m/weights.pt2", tmp_path / "in")
        store.get_file("models/m/weights.pt2", tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == content

    @pytest.mark.parametrize("size", [5, 16 * 1024 * 1024, 35 * 1024 * 1024])
    def test_the_same_file_again_is_done_and_any_other_is_refused(self, store, tmp_path, size):
        content = os.urandom(size)
        (tmp_path / "in").write_bytes(content)
        (tmp_path / "other").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        store.put_file("k", tmp_path / "in")
        store.put_file("k", tmp_path / "in")
        store.put("k", content)
        with pytest.raises(ObjectExists):
            store.put_file("k", tmp_path / "other")
        store.get_file("k", tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == content

    def test_put_file_never_overwrites(self, store, tmp_path):
        (tmp_path / "in").write_bytes(b"second")
        store.put("k", b"first")
        with pytest.raises(ObjectExists):
            store.put_file("k", tmp_path / "in")
        assert store.get("k") == b"first"

    def test_get_file_replaces_what_was_there(self, store, tmp_path):
        store.put("k", b"new")
        (tmp_path / "out").write_bytes(b"old and longer")
        store.get_file("k", tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == b"new"
        assert os.listdir(tmp_path) == ["out"] or "out" in os.listdir(tmp_path)

    def test_a_missing_object_leaves_no_file(self, store, tmp_path):
        folder = tmp_path / "folder"
        folder.mkdir()
        with pytest.raises(ObjectMissing):
            store.get_file("nothing", folder / "out")
        assert list(folder.iterdir()) == []

    def test_a_missing_source_is_the_callers_error(self, store, tmp_path):
        with pytest.raises(FileNotFoundError):
            store.put_file("k", tmp_path / "nothing")
        assert keys(store) == []


@every_store
class TestList:
    NAMES = ("a", "b/c", "b-c", "b.c", "b0", "b/c0", "b/d/e", "B", "b_", "z=1/2")

    @pytest.fixture(autouse=True)
    def objects(self, store):
        for name in self.NAMES:
            store.put(name, name.encode())

    def test_in_key_order(self, store):
        assert keys(store) == sorted(self.NAMES)

    @pytest.mark.parametrize("prefix", ["b", "b/", "b/c", "b/d/", "b/d/e", "z=1", "zz", "b/d/e/"])
    def test_by_prefix(self, store, prefix):
        assert keys(store, prefix) == sorted(n for n in self.NAMES if n.startswith(prefix))

    @pytest.mark.parametrize("prefix", ["../", "/", "/etc", "b/../a", "~"])
    def test_a_prefix_leads_nowhere_else(self, store, prefix):
        assert keys(store, prefix) == []

    def test_size_and_time(self, store):
        (info,) = store.list("b/d/e")
        assert info.size == 5
        assert info.modified > 1.7e9

    def test_deleting_while_listing(self, store):
        for info in store.list("b"):
            store.delete([info.key])
        assert keys(store) == ["B", "a", "z=1/2"]


@every_store
class TestDelete:
    def test_only_what_is_named(self, store):
        for name in ("a", "b/c", "b/d"):
            store.put(name, b"")
        store.delete(["a", "b/c"])
        assert keys(store) == ["b/d"]

    def test_what_is_not_there_is_no_error(self, store):
        store.put("a/b", b"")
        store.delete(["nothing", "no/thing", "a", "a/b/c"])
        assert keys(store) == ["a/b"]

    def test_the_key_is_free_again(self, store):
        store.put("a/b", b"first")
        store.delete(iter(["a/b"]))
        store.put("a/b", b"second")
        assert store.get("a/b") == b"second"

    def test_its_folder_may_become_an_object(self, store):
        store.put("a/b/c", b"")
        store.delete(["a/b/c"])
        store.put("a", b"v")
        assert store.get("a") == b"v"


@every_store
class TestKeys:
    BAD = (
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/../b",
        "../a",
        "a/./b",
        "a b",
        "a\n",
        "a\x00",
        "ä",
        "a\\b",
        "~tmp/x",
        "x" * (MAX_PART + 1),
        "x/" * (MAX_KEY // 2) + "x",
    )

    @pytest.mark.parametrize("key", BAD)
    def test_a_bad_key_is_refused_everywhere(self, store, key, tmp_path):
        (tmp_path / "in").write_bytes(b"")
        for call in (
            lambda: store.put(key, b""),
            lambda: store.get(key),
            lambda: store.put_file(key, tmp_path / "in"),
            lambda: store.get_file(key, tmp_path / "out"),
            lambda: store.delete([key]),
        ):
            with pytest.raises(ValueError, match="object key"):
                call()

    @pytest.mark.parametrize("key", [".a", "...", "a..b", "x" * MAX_PART, "a=b@c/d-e_f.g"])
    def test_a_good_key_is_taken(self, store, key):
        store.put(key, b"v")
        assert keys(store) == [key]


@every_store
class TestConcurrency:
    def test_of_many_puts_of_one_key_one_wins(self, store):
        writers, rounds = 8, 20
        start = threading.Barrier(writers)

        def write(me: int) -> list[int]:
            won = []
            for i in range(rounds):
                start.wait()
                try:
                    store.put(f"race/{i}", str(me).encode() * 1000)
                except ObjectExists:
                    continue
                won.append(i)
            return won

        with ThreadPoolExecutor(writers) as pool:
            won = list(pool.map(write, range(writers)))
        assert sorted(i for one in won for i in one) == list(range(rounds))
        for me, mine in enumerate(won):
            for i in mine:
                assert store.get(f"race/{i}") == str(me).encode() * 1000

    def test_puts_survive_deletes_beside_them(self, store):
        """A delete may remove the folder that a put has just made."""
        rounds = 20 if store.url.startswith("s3:") else 200

        def come_and_go(me: int) -> None:
            for i in range(rounds):
                key = f"folder/{i}/{me}"
                store.put(key, b"v")
                assert store.get(key) == b"v"
                store.delete([key])

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(come_and_go, range(4)))
        assert keys(store) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from headrace.storage.local import LocalStore
link = os.link
def last_breath(source, target):
    print("written", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
os.link = last_breath
LocalStore(Path(sys.argv[1])).put("a/killed", b"half a result")
"""


class TestLocal:
    """What only a folder can get wrong."""

    @pytest.fixture
    def local(self, tmp_path) -> LocalStore:
        return LocalStore(tmp_path / "store")

    def leftovers(self, local: LocalStore) -> list[Path]:
        return list((local.root / "~tmp").iterdir())

    def test_a_put_killed_half_way_left_nothing_to_see(self, local):
        killed = subprocess.run(
            [sys.executable, "-c", KILLED, str(local.root)], capture_output=True, check=False
        )
        assert killed.returncode == -signal.SIGKILL
        assert killed.stdout == b"written\n"
        assert len(self.leftovers(local)) == 1, "the test must kill between write and link"
        assert keys(local) == []
        with pytest.raises(ObjectMissing):
            local.get("a/killed")
        local.put("a/killed", b"the whole result")
        assert local.get("a/killed") == b"the whole result"

    def test_old_leftovers_go_and_young_ones_stay(self, local):
        assert local.tidy(60, 9) == 0
        local.put("a", b"")
        folder = local.root / "~tmp"
        for name in ("old", "older", "young"):
            (folder / name).write_bytes(b"")
            if name != "young":
                os.utime(folder / name, (0, 0))
        assert local.tidy(24 * 3600, 1) == 1
        assert local.tidy(24 * 3600, 9) == 1
        assert [path.name for path in self.leftovers(local)] == ["young"]
        assert keys(local) == ["a"]

    def test_a_failed_put_leaves_nothing(self, local, monkeypatch):
        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StoreUnavailable, match=r"'k'.*No space left") as caught:
            local.put("k", b"v")
        assert caught.value.retryable
        assert self.leftovers(local) == []
        assert keys(local) == []

    def test_data_and_folders_are_synced_before_put_returns(self, local, monkeypatch):
        synced: list[str] = []
        linked: list[int] = []
        fsync, link = os.fsync, os.link

        def note(descriptor: int) -> None:
            synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            fsync(descriptor)

        def note_link(source: Path, target: Path) -> None:
            linked.append(len(synced))
            link(source, target)

        monkeypatch.setattr(os, "fsync", note)
        monkeypatch.setattr(os, "link", note_link)
        local.put("a/b/c", b"v")
        root = str(local.root)
        assert linked == [1], "the data is synced before the name appears"
        assert synced[0].startswith(f"{root}/~tmp/")
        assert set(synced[1:]) == {f"{root}/a/b", f"{root}/a", root, str(local.root.parent)}
        synced.clear()
        local.put("a/b/d", b"v")
        assert synced[1:] == [f"{root}/a/b"], "what holds already is not synced again"

    def test_get_file_killed_by_a_full_disk_keeps_the_old_file(self, local, tmp_path, monkeypatch):
        local.put("k", b"new")
        folder = tmp_path / "folder"
        folder.mkdir()
        (folder / "out").write_bytes(b"old")

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StoreUnavailable):
            local.get_file("k", folder / "out")
        assert (folder / "out").read_bytes() == b"old"
        assert os.listdir(folder) == ["out"]

    def test_a_key_below_an_object_is_refused(self, local):
        local.put("a", b"")
        with pytest.raises(StorageError, match="below another object"):
            local.put("a/b", b"")
        with pytest.raises(StorageError, match="below another object"):
            local.put("a/b/c", b"")

    def test_a_folder_pruned_while_it_is_made_is_made_again(self, local, monkeypatch):
        mkdir, failures = Path.mkdir, [FileExistsError(), FileNotFoundError()]

        def racing(path: Path, *args, **kwargs) -> None:
            if path.name == "b" and failures:
                raise failures.pop()
            mkdir(path, *args, **kwargs)

        monkeypatch.setattr(Path, "mkdir", racing)
        local.put("a/b/c", b"v")
        assert not failures
        assert local.get("a/b/c") == b"v"

    def test_a_folder_is_not_overwritten(self, local):
        local.put("a/b", b"v")
        with pytest.raises(ObjectExists):
            local.put("a", b"")
        assert keys(local) == ["a/b"]

    def test_an_unusable_root_is_unavailable(self, tmp_path):
        (tmp_path / "file").write_bytes(b"")
        store = LocalStore(tmp_path / "file" / "store")
        with pytest.raises(StoreUnavailable, match="'k'"):
            store.put("k", b"")

    def test_symbolic_links_are_not_followed_into_a_listing(self, local, tmp_path):
        local.put("a", b"")
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "secret").write_bytes(b"")
        (local.root / "b").symlink_to(tmp_path / "elsewhere")
        (local.root / "c").symlink_to(tmp_path / "elsewhere" / "secret")
        assert keys(local) == ["a"]

    def test_a_relative_root_stays_where_it_was(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        store = LocalStore(Path("store"))
        monkeypatch.chdir("/")
        store.put("k", b"")
        assert (tmp_path / "store" / "k").is_file()

    def test_boto3_is_asked_for_only_by_s3(self, tmp_path):
        code = (
            "import sys; sys.modules['boto3'] = None\n"
            "from headrace.storage import open_store\n"
            f"open_store({str(tmp_path)!r}).put('k', b'')\n"
            "from headrace.errors import NotInstalled\n"
            "try: open_store('s3://bucket')\n"
            "except NotInstalled as error: print(error)\n"
        )
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        assert b"headrace[s3]" in said.stdout
