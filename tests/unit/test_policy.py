"""The batch policy: what runs next, given what waits."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from headrace.job import Priority
from headrace.signature import padded_tokens
from tests.unit.items import item, version
from workers.flow import Item
from workers.policy import BatchPolicy

VERSIONS = (
    version("a", records=4),
    version("a", 2, records=1),
    version("b", records=8, tokens=20),
    version("c", records=3, tokens=4),
)
ITEMS = st.lists(
    st.builds(
        item,
        st.sampled_from(VERSIONS),
        priority=st.sampled_from(Priority),
        length=st.integers(1, 12),
        bucket=st.sampled_from([(), (1,)]),
        suspect=st.sampled_from([False, False, True]),
    ),
    max_size=30,
)
ROUNDS = st.lists(st.tuples(ITEMS, st.booleans()), min_size=1, max_size=4)


def ids(items: list[Item]) -> list[str]:
    return [item.unit.id for item in items]


def drain(policy: BatchPolicy) -> list[list[Item]]:
    batches = []
    while (batch := policy.next(full_only=False)) is not None:
        batches.append(batch)
    return batches


@given(ROUNDS)
def test_nothing_is_lost_or_doubled(rounds) -> None:
    policy = BatchPolicy()
    given: list[str] = []
    taken: list[str] = []
    for items, full_only in rounds:
        policy.add(items)
        given += ids(items)
        taken += ids(policy.next(full_only=full_only) or [])
        assert len(policy) == len(given) - len(taken)
    taken += ids([item for batch in drain(policy) for item in batch])
    assert sorted(taken) == sorted(given)


@given(ITEMS)
def test_a_batch_is_of_one_version_and_bucket_and_within_its_bounds(items) -> None:
    policy = BatchPolicy()
    policy.add(items)
    for batch in drain(policy):
        assert len({(item.version.key, item.bucket) for item in batch}) == 1
        bounds = batch[0].version.manifest.batching
        assert 1 <= len(batch) <= bounds.max_records
        assert len(batch) == 1 or not any(item.unit.suspect for item in batch)
        lengths = [item.length for item in batch]
        # A record over the bound runs alone: it could not run otherwise.
        if bounds.max_tokens and len(batch) > 1:
            assert padded_tokens(lengths) <= bounds.max_tokens
        assert lengths == sorted(lengths)


@given(ITEMS)
def test_the_most_urgent_item_is_in_the_next_batch(items) -> None:
    policy = BatchPolicy()
    policy.add(items)
    waiting = list(items)
    while (batch := policy.next(full_only=False)) is not None:
        most_urgent = min(range(len(waiting)), key=lambda n: (waiting[n].unit.priority, n))
        assert waiting[most_urgent].unit.id in ids(batch)
        waiting = [item for item in waiting if item.unit.id not in ids(batch)]
    assert not waiting


@given(ITEMS)
def test_more_urgent_mates_come_first(items) -> None:
    """What is left behind of the batch's own group is no more urgent than what was taken,
    unless the leader's padded length left no room for it."""
    items = [
        item
        for item in items
        if item.version.manifest.batching.max_tokens is None and not item.unit.suspect
    ]
    policy = BatchPolicy()
    policy.add(items)
    batch = policy.next(full_only=False) or []
    left = [
        item.unit.priority
        for item in items
        if item.unit.id not in ids(batch)
        and (item.version.key, item.bucket) == (batch[0].version.key, batch[0].bucket)
    ]
    if left:
        assert max(item.unit.priority for item in batch) <= min(left)


@given(ITEMS, ITEMS)
def test_a_full_batch_is_one_that_no_later_item_of_its_priority_would_grow(items, later) -> None:
    one, two = BatchPolicy(), BatchPolicy()
    one.add(items)
    full = one.next(full_only=True)
    if full is None:
        return
    two.add(items)
    urgency = max(item.unit.priority for item in items)
    two.add([item for item in later if item.unit.priority > urgency])
    grown = two.next(full_only=False)
    assert grown is not None
    assert len(grown) == len(full)
    assert Counter(ids(grown)) == Counter(ids(full))


def test_full_only_waits_for_more() -> None:
    policy = BatchPolicy()
    policy.add([item(VERSIONS[0]) for _ in range(3)])
    assert policy.next(full_only=True) is None
    assert len(policy) == 3
    policy.add([item(VERSIONS[0])])
    assert len(policy.next(full_only=True) or []) == 4
    assert policy.next(full_only=False) is None


def test_a_suspect_waits_for_an_idle_device() -> None:
    policy = BatchPolicy()
    suspect = item(VERSIONS[0], priority=Priority.HIGH, suspect=True)
    policy.add([suspect, *(item(VERSIONS[0]) for _ in range(8))])
    assert policy.next(full_only=True) is None
    assert policy.next(full_only=False) == [suspect]


@given(ITEMS, st.integers(1, 30))
def test_a_ceiling_bounds_all_but_one_that_is_larger_by_itself(items, tokens) -> None:
    policy = BatchPolicy(lambda key: tokens if key.name == "b" else None)
    policy.add(items)
    for batch in drain(policy):
        if batch[0].version.manifest.name == "b" and len(batch) > 1:
            assert padded_tokens(item.length for item in batch) <= tokens


def test_a_batch_at_its_ceiling_is_full() -> None:
    policy = BatchPolicy(lambda _: 2)
    policy.add([item(VERSIONS[0]) for _ in range(3)])
    assert policy.plenty()
    assert len(policy.next(full_only=True) or []) == 2
    assert policy.next(full_only=True) is None


def test_mates_are_those_nearest_in_length() -> None:
    of = version(records=3)
    policy = BatchPolicy()
    policy.add([item(of, length=length) for length in (10, 1, 11, 50, 9)])
    batch = policy.next(full_only=False)
    assert [item.length for item in batch or []] == [9, 10, 11]


def test_there_is_plenty_once_a_batch_waits() -> None:
    policy = BatchPolicy()
    assert not policy.plenty()
    policy.add([item(VERSIONS[0]) for _ in range(3)])
    assert not policy.plenty()
    policy.add([item(VERSIONS[0])])
    assert policy.plenty()


def test_draining_takes_everything() -> None:
    policy = BatchPolicy()
    items = [item(of) for of in VERSIONS for _ in range(3)]
    policy.add(items)
    assert sorted(ids(policy.drain())) == sorted(ids(items))
    assert len(policy) == 0
    assert policy.next(full_only=False) is None
