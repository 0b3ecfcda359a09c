"""The runs of a sweep, and what is kept of them, from the lines of their metrics."""

from pathlib import Path

from simjax.checkpoint.config import CheckpointConfig
from simjax.lab.sweep.recipe import one_run
from simjax.lab.sweep.runs import figures
from simjax.train.config import RunConfig


def test_a_run_is_told_by_means_of_its_steps():
    lines = [{"step": 0, "dev/spearman": 40.0}]
    for step in range(1, 21):
        lines.append(
            {
                "step": step,
                "loss": float(step),
                "pairs_per_second": 10.0 * step,
                "gradient_noise": float(step),
                "gradient_signal": 1.0 if step > 10 else None,
            }
        )
    found = figures(lines)
    assert found["steps"] == 20 and found["loss"] == 19.5
    assert found["pairs_per_second"] == 105.0
    # Ten steps have both; noise is taken from no other.
    assert found["noise"] == 15.5 and found["noise_parts"] == [12.0, 15.0, 17.5, 19.5]
    assert found["signal"] == 1.0 and found["signal_parts"] == [1.0] * 4
    two = figures(lines[:13])
    assert two["noise_parts"] == [11.0, 12.0] and two["signal_parts"] == [1.0, 1.0]
    nothing = figures(lines[:1])
    assert nothing["loss"] is None and nothing["noise"] is None and nothing["noise_parts"] == []


def test_runs_share_no_mirror():
    recipe = RunConfig(output="x", checkpoint=CheckpointConfig(every=7, mirror="gs://bucket/m"))
    run = one_run(recipe, Path("runs/1"), 1)
    assert run.checkpoint == CheckpointConfig(every=7) and run.output == "runs/1"
