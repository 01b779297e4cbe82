"""The infer station's account of its time, from which the speed of shards is told."""

import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from headrace.errors import PackageError
from workers.infer import Infer
from workers.turns import Turns


@pytest.mark.parametrize("fails", [False, True])
def test_the_loading_of_a_model_is_no_work_of_a_shard(fails) -> None:
    def load(version: object) -> None:
        time.sleep(0.02)
        if fails:
            raise PackageError("weights", "are none")

    turns = Turns()
    infer = Infer(
        residents=SimpleNamespace(get=load, fits=lambda size: True),  # type: ignore[arg-type]
        waiting=SimpleNamespace(),  # type: ignore[arg-type]
        turns=turns,
        progress=SimpleNamespace(device=lambda limit: nullcontext()),  # type: ignore[arg-type]
        to_store=lambda ran: None,
        ceilings=SimpleNamespace(),  # type: ignore[arg-type]
        still_wanted=lambda batch: batch,
    )
    version = SimpleNamespace(key="m@1")
    infer.warm_up_first([version], lambda: None)  # type: ignore[list-item]
    infer.stop()
    assert not infer.step()
    assert infer.other_seconds >= 0.02
