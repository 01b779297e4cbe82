"""The error tree is the one its docstring draws."""

import re

from headrace import errors
from headrace.errors import HeadraceError, JobFailed, Unavailable


def tree(kind: type[HeadraceError]) -> list[type[HeadraceError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in tree(child))]


OURS = [kind for kind in tree(HeadraceError) if kind.__module__ == "headrace.errors"]


def test_every_class_is_drawn_below_its_parent() -> None:
    drawn: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ([ │├└─]*)(\w+)", line)
        if match is None or not match[2][0].isupper():
            continue
        while parents and parents[-1][0] >= len(match[1]):
            parents.pop()
        drawn[match[2]] = parents[-1][1] if parents else ""
        parents.append((len(match[1]), match[2]))
    theirs = {kind.__name__: kind.__mro__[1].__name__ for kind in OURS}
    assert drawn == theirs | {"HeadraceError": ""}


def test_codes_are_unique_and_fit_the_job_table() -> None:
    codes = [kind.code for kind in OURS]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z_]{1,64}", code) for code in codes)


def test_what_the_drawing_calls_retryable_is() -> None:
    drawn = set(re.findall(r"(\w+)  .*\(retryable\)", errors.__doc__ or ""))
    retryable = {kind.__name__ for kind in OURS if "retryable" in vars(kind) and kind.retryable}
    assert drawn == retryable
    assert all(kind.retryable for kind in tree(Unavailable))


def test_an_error_names_the_job_and_keeps_code_and_message() -> None:
    error = JobFailed("4711", "model_error", "ValueError: no")
    assert str(error) == "job 4711: model_error: ValueError: no"
    assert (error.job_id, error.error_code, error.message) == (
        "4711",
        "model_error",
        "ValueError: no",
    )
