"""A trace of the steps that were asked for, and of no others."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from simjax.train.profiler import Profiler


def traced_steps(folder: Path) -> list[int]:
    found = list(folder.glob("plugins/profile/*/*.xplane.pb"))
    assert len(found) == 1
    data = jax.profiler.ProfileData.from_file(str(found[0]))
    return sorted(
        dict(event.stats)["step_num"]
        for plane in data.planes
        for line in plane.lines
        for event in line.events
        if event.name == "train"
    )


def walk(profiler: Profiler, steps: range) -> None:
    double = jax.jit(lambda x: 2 * x)
    x = jnp.ones(3)
    with profiler:
        for step in steps:
            x = profiler.call(step, double, x)


def test_the_chosen_steps_are_traced(tmp_path):
    walk(Profiler(tmp_path, (2, 4)), range(1, 7))
    assert traced_steps(tmp_path) == [2, 3, 4]


def test_a_run_that_goes_on_inside_of_the_trace_or_ends_there_traces_what_is_left(tmp_path):
    walk(Profiler(tmp_path, (2, 9)), range(4, 7))
    assert traced_steps(tmp_path) == [4, 5, 6]


@pytest.mark.parametrize("steps", [None, (8, 9)])
def test_nothing_is_traced_that_was_not_asked_for(tmp_path, steps):
    walk(Profiler(tmp_path, steps), range(1, 4))
    assert not list(tmp_path.iterdir())
