"""Data of tiny runs, and one such run that nothing interrupts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from simjax.train.config import RunConfig
from tests.train.tiny_run import compilations_kept_in, recipe, train, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Made once for all modules, and each program is compiled once for all of them."""
    folder = tmp_path_factory.getbasetemp() / "tiny"
    if not folder.exists():
        folder.mkdir()
        write_data(folder)
    with compilations_kept_in(folder / "compiled"):
        yield folder


@cache
def _whole(data: Path) -> tuple[RunConfig, dict[str, Any]]:
    config = recipe(data, data / "whole")
    return config, train(config)


@pytest.fixture(scope="module")
def whole(data: Path) -> tuple[RunConfig, dict[str, Any]]:
    """A run that nothing interrupts, and what it returned."""
    return _whole(data)
