"""One setting for all tests: eight CPU devices, no network, strict where JAX lets us be."""

import os

# Before JAX and the Hugging Face libraries are imported, here and in the tests' subprocesses.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# PyTorch's threads spin while they wait, and take the cores from whatever else is tested.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from hypothesis import settings

# A machine that is busy is no fault of a test's.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
# `make fuzz`: the same properties, on many more examples.
settings.register_profile("fuzz", max_examples=5000, print_blob=True, deadline=None)

jax.config.update("jax_num_cpu_devices", 8)

MOST_MAPS = 20_000
"""Of a process; the kernel's limit is 65,530 unless set otherwise."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test marked `sampled(n)` every n-th case is fast, and the others are slow."""
    seen: Counter[str] = Counter()
    for item in items:
        mark = item.get_closest_marker("sampled")
        if mark is None or item.get_closest_marker("slow"):
            continue
        test = item.nodeid.partition("[")[0]
        if seen[test] % mark.args[0]:
            item.add_marker(pytest.mark.slow)
        seen[test] += 1


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Token stores go to a folder of this session, not to the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True, scope="module")
def room_for_programs() -> Iterator[None]:
    """Compiled programs are let go of before Linux refuses more memory maps, which crashes XLA."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()


@pytest.fixture
def data_root() -> Path:
    """The folder of real data sets; tests that take it are marked `data`."""
    folder = os.environ.get("SIMJAX_DATA")
    if not folder:
        pytest.skip("SIMJAX_DATA names no folder of data sets")
    return Path(folder)


@pytest.fixture
def strict_promotion():
    """No silent mixing of dtypes."""
    with jax.numpy_dtype_promotion("strict"):
        yield
