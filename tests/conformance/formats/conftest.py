"""Files of tiny models, made once per run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def pool_pt2(tmp_path_factory) -> Path:
    """A torch.export archive that takes any batch and up to 64 tokens."""
    from tests.conformance.formats import models

    path = tmp_path_factory.mktemp("pt2") / "pool.pt2"
    models.export_pool(str(path))
    return path


@pytest.fixture(scope="session")
def _pool_package(tmp_path_factory, pool_pt2) -> Path:
    from headrace.registry.init_package import init_package
    from tests.conformance.formats import models

    root = tmp_path_factory.mktemp("packages") / "pool"
    init_package(
        pool_pt2,
        models.example(),
        root,
        shapes={"x": ("tokens", 4)},
        pad={"x": 0, "mask": 0},
    )
    return root


@pytest.fixture
def pool_package(tmp_path, _pool_package) -> Path:
    """A package of that archive, to be spoilt at will."""
    root = tmp_path / "pool"
    shutil.copytree(_pool_package, root)
    return root
