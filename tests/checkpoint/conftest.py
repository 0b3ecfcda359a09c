"""Mirrors for the tests that ask for one."""

from __future__ import annotations

import pytest

from tests.checkpoint.mirrored import forget_memory


@pytest.fixture(params=["memory", "folder"])
def url(tmp_path, request):
    """Where there is nothing yet."""
    forget_memory()
    return "memory://bucket/m" if request.param == "memory" else str(tmp_path / "there" / "m")
