"""Packs: what is put in comes out, by range and by scan, and damage is never silent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import ObjectCorrupt
from headrace.job import JobId
from headrace.storage.local import LocalStore
from headrace.storage.packs import build_pack, read_pack, scan

ITEMS = st.lists(st.tuples(st.text(max_size=40).map(JobId), st.binary(max_size=200)), max_size=8)
THREE = [(JobId("a"), b"one"), (JobId("b"), b""), (JobId("c"), b"three")]


@given(ITEMS)
def test_a_pack_gives_back_its_items(items):
    data, places = build_pack(items)
    assert list(scan(data)) == items
    assert [data[offset : offset + length] for offset, length in places] == [p for _, p in items]


@given(ITEMS, st.data())
def test_any_truncation_is_seen(items, draw):
    data, _ = build_pack(items)
    with pytest.raises(ObjectCorrupt):
        list(scan(data[: draw.draw(st.integers(0, len(data) - 1))]))


@given(ITEMS, st.data())
def test_any_changed_bit_is_seen(items, draw):
    data = bytearray(build_pack(items)[0])
    data[draw.draw(st.integers(0, len(data) - 1))] ^= 1 << draw.draw(st.integers(0, 7))
    with pytest.raises(ObjectCorrupt):
        list(scan(bytes(data)))


@given(ITEMS, st.binary(min_size=1, max_size=50))
def test_anything_appended_is_seen(items, more):
    with pytest.raises(ObjectCorrupt):
        list(scan(build_pack(items)[0] + more))


@given(st.binary(max_size=200))
def test_other_bytes_are_no_pack(data):
    with pytest.raises(ObjectCorrupt):
        list(scan(data))


def test_a_lost_entry_is_seen_although_the_rest_is_sound():
    data, places = build_pack(THREE)
    second = places[0][0] + places[0][1]
    third = places[1][0] + places[1][1]
    with pytest.raises(ObjectCorrupt, match="end"):
        list(scan(data[:second] + data[third:]))


def test_swapped_entries_are_seen():
    data, places = build_pack(THREE)
    first = places[0][0] + places[0][1]
    second = places[1][0] + places[1][1]
    with pytest.raises(ObjectCorrupt, match="end"):
        list(scan(data[first:second] + data[:first] + data[second:]))


def test_entries_before_the_damage_are_yielded():
    data, _ = build_pack(THREE)
    entries = scan(data[:-30], "results/x")
    assert next(entries) == THREE[0]
    with pytest.raises(ObjectCorrupt, match="results/x"):
        list(entries)


def test_a_later_version_is_named():
    data = bytearray(build_pack(THREE)[0])
    data[4] = 2
    with pytest.raises(ObjectCorrupt, match="version 2"):
        list(scan(bytes(data)))


def test_the_same_job_twice_is_shown_twice():
    twice = [(JobId("a"), b"1"), (JobId("a"), b"1")]
    assert list(scan(build_pack(twice)[0])) == twice


def test_an_overlong_job_id_is_refused():
    with pytest.raises(ValueError, match="job id"):
        build_pack([(JobId("x" * 65_536), b"")])


def test_the_format_is_pinned():
    """Objects outlive releases: a change here needs a new version and a reader for the old."""
    data, _ = build_pack([(JobId("j"), b"hi")])
    assert data.hex() == PINNED
    assert list(scan(bytes.fromhex(PINNED))) == [("j", b"hi")]


PINNED = "4852504b01000100583e975602000000000000006a686948525045010000000e93c3c60100000000000000"


class TestReadPack:
    @pytest.fixture
    def store(self, tmp_path):
        return LocalStore(tmp_path)

    def wanted(self, places):
        return [(id, *place) for (id, _), place in zip(THREE, places, strict=True)]

    def test_gives_the_payloads_asked_for_in_their_order(self, store):
        data, places = build_pack(THREE)
        store.put("k", data)
        a, b, c = self.wanted(places)
        assert read_pack(store, "k", [a, b, c]) == [b"one", b"", b"three"]
        assert read_pack(store, "k", [c, a]) == [b"three", b"one"]
        assert read_pack(store, "k", [b]) == [b""]

    def test_sees_any_changed_bit_of_an_entry_it_reads(self, store):
        data, places = build_pack(THREE)
        wanted = self.wanted(places)
        end = places[-1][0] + places[-1][1]
        for bit in range(8 * end):
            damaged = bytearray(data)
            damaged[bit // 8] ^= 1 << bit % 8
            store.put("k", bytes(damaged))
            with pytest.raises(ObjectCorrupt):
                read_pack(store, "k", wanted)
            store.delete(["k"])

    def test_takes_no_entry_for_another_jobs(self, store):
        data, [a, _, c] = build_pack(THREE)
        store.put("k", data)
        with pytest.raises(ObjectCorrupt, match=r"'k'.*job a"):
            read_pack(store, "k", [(JobId("a"), *c)])
        with pytest.raises(ObjectCorrupt, match=r"'k'.*job c"):
            read_pack(store, "k", [(JobId("c"), *a)])
        with pytest.raises(ObjectCorrupt):
            read_pack(store, "k", [(JobId("a"), a[0], a[1] - 1)])
