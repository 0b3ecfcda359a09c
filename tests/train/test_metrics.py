from __future__ import annotations

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from simjax.errors import SimjaxError
from simjax.train import metrics
from simjax.train.metrics import MetricsWriter


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder / "tensorboard"))
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def test_lines_and_events(tmp_path):
    with MetricsWriter(tmp_path / "run") as writer:
        writer.write(1, {"loss": 0.5, "pairs": 512})
        # Whole already, while the writer is open: a kill loses nothing.
        assert lines(tmp_path / "run") == [{"step": 1, "loss": 0.5, "pairs": 512}]
        writer.write(np.int64(2), {"loss": jnp.float32(0.25), "bad": math.nan, "worse": -math.inf})
    assert lines(tmp_path / "run")[1] == {"step": 2, "loss": 0.25, "bad": None, "worse": None}
    seen = events(tmp_path / "run")
    assert seen["loss"] == [(1, 0.5), (2, 0.25)]
    assert not {"bad", "worse"} & seen.keys()
    assert metrics.read(tmp_path / "run" / "metrics.jsonl") == lines(tmp_path / "run")


def test_resuming_drops_what_is_done_again(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        for step in range(1, 7):
            writer.write(step, {"loss": float(step)})
            writer.write(step, {"dev/spearman": step / 10})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')  # torn by a kill
    with MetricsWriter(tmp_path, resume_step=4) as writer:
        assert [line["step"] for line in lines(tmp_path)] == [1, 1, 2, 2, 3, 3, 4, 4]
        writer.write(5, {"loss": 50.0})
    assert lines(tmp_path)[-1] == {"step": 5, "loss": 50.0}
    assert len(lines(tmp_path)) == 9
    assert [path.name for path in tmp_path.glob("*.partial")] == []
    assert events(tmp_path)["loss"] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0), (5, 50.0)]


def test_torn_anywhere_it_goes_on_whole_and_without_doubles(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        for step in (1, 2, 3):
            writer.write(step, {"loss": step / 7, "é": 1.0})
    whole = path.read_bytes()
    kept = lines(tmp_path)
    for torn in range(len(whole) + 1):
        path.write_bytes(whole[:torn])
        complete = [line for line in kept if json.dumps(line).encode() in whole[:torn]]
        with MetricsWriter(tmp_path, resume_step=2, tensorboard=False) as writer:
            assert lines(tmp_path) == complete[:2]
            for step in range(len(complete[:2]) + 1, 4):
                writer.write(step, {"loss": step / 7, "é": 1.0})
        assert path.read_bytes() == whole


def test_a_line_without_its_end_is_completed(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 2.0}')
    with MetricsWriter(tmp_path, resume_step=2, tensorboard=False) as writer:
        writer.write(3, {"loss": 3.0})
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_lines_that_are_no_figures_are_dropped(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'\0\xff\n[1]\n{"loss": 1}\n{"step": 1}\n"step"\n')
    with MetricsWriter(tmp_path, resume_step=9, tensorboard=False):
        assert lines(tmp_path) == [{"step": 1}]


def test_a_new_run_starts_empty(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "loss": 1.0}\n')
    with MetricsWriter(tmp_path, tensorboard=False):
        assert lines(tmp_path) == []


def test_other_processes_write_nothing(tmp_path):
    with MetricsWriter(tmp_path / "run", enabled=False) as writer:
        writer.write(1, {"loss": 1.0})
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SimjaxError, match=r"metrics\.jsonl: cannot be written"):
        MetricsWriter(tmp_path / "file")
