"""A service that cannot be started: a skip on a laptop, a failure in CI."""

import pytest

from tests.services import unavailable


@pytest.mark.parametrize(
    ("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)]
)
def test_unavailable(ci, outcome, monkeypatch):
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match=r"Redis could not be started.*no such program"):
        unavailable("Redis", "no such program")
