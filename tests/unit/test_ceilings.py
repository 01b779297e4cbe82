"""How large batches may be: learnt from those that did not fit, and tried again now and then."""

from hypothesis import given
from hypothesis import strategies as st

from headrace.runtimes.isolation import Overflow
from workers.ceilings import _MOST_PATIENCE, _PATIENCE, Ceiling, after_overflow

FULL = {"longest": 1, "most": 64}


def full(ceiling: Ceiling, batches: int = 1, most: int = 64) -> Ceiling | None:
    """After so many batches of the ceiling's size."""
    after: Ceiling | None = ceiling
    for _ in range(batches):
        assert after is not None
        after = after.after_full(after.tokens, 1, most)
    return after


def test_the_first_is_what_did_fit() -> None:
    assert after_overflow(None, Overflow(32, 16)).tokens == 16


def test_it_is_raised_once_it_has_held_for_long() -> None:
    first = after_overflow(None, Overflow(32, 16))
    assert full(first, _PATIENCE - 1).tokens == 16
    assert full(first, _PATIENCE).tokens == 20
    assert full(first, 3 * _PATIENCE).tokens == 31


def test_where_a_larger_one_does_not_fit_it_returns_to_what_did_and_waits_longer() -> None:
    raised = full(after_overflow(None, Overflow(32, 16)), _PATIENCE)
    # Halved, the batch of 20 ran as two of 10; but 16 is known to fit.
    back = after_overflow(raised, Overflow(20, 10))
    assert back.tokens == 16
    assert full(back, 2 * _PATIENCE - 1).tokens == 16
    assert full(back, 2 * _PATIENCE).tokens == 20
    for _ in range(20):
        back = after_overflow(back, Overflow(20, 10))
    assert back.patience == _MOST_PATIENCE


def test_what_did_fit_may_do_so_no_longer() -> None:
    ceiling = full(after_overflow(None, Overflow(32, 16)), 3)
    assert after_overflow(ceiling, Overflow(16, 8)) == Ceiling(8, 8)


def test_there_is_none_where_the_manifest_allows_no_more() -> None:
    assert full(Ceiling(60, 60), _PATIENCE) is None


@given(st.integers(1, 200), st.integers(1, 64))
def test_it_finds_what_fits_and_goes_beyond_it_only_now_and_then(fits: int, first: int) -> None:
    """Over 10,000 full batches of a model that takes `fits` records, and would like 64."""
    ceiling: Ceiling | None = Ceiling(min(first, fits), min(first, fits))
    overflows = 0
    for _ in range(10_000):
        if ceiling is None:
            break
        if ceiling.tokens <= fits:
            ceiling = ceiling.after_full(ceiling.tokens, 1, 64)
        else:
            overflows += 1
            ceiling = after_overflow(ceiling, Overflow(ceiling.tokens, ceiling.tokens // 2))
    assert overflows < 12
    if fits >= 64:
        assert ceiling is None
    elif ceiling is not None:
        assert fits * 0.7 <= ceiling.tokens <= fits * 1.25 + 1
