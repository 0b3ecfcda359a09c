"""What follows from figures that may differ from host to host is the same on all of them."""

from __future__ import annotations

import jax
import numpy as np

from simjax.checkpoint import agreement


def test_scores_are_those_of_process_0(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(agreement, "of_all_processes", lambda mine: np.stack([mine + 1, mine]))
    said = agreement.scores_from_leader({"b": 2.0, "a": 0.1})
    assert said == {"a": 1.1, "b": 3.0}
    assert agreement.scores_from_leader({}) == {}


def test_what_each_process_has_to_say_comes_whole():
    found = agreement.of_all_processes(np.asarray([2**40 + 1, -1], np.int64))
    assert found.dtype == np.int64 and found.tolist() == [[2**40 + 1, -1]]
