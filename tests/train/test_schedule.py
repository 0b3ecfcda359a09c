"""The learning rate of each update; test_optimizer.py holds it to that of transformers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from simjax.errors import UsageError
from simjax.train.optimizer_config import AdamW
from simjax.train.schedule import make_schedule, peak_learning_rate, warmup_steps


def test_the_ends_of_the_schedule():
    config = AdamW(learning_rate=2.0, warmup=4, schedule="linear")
    rate = make_schedule(config, 12, 256)
    assert [float(rate(n)) for n in (0, 2, 4, 8, 12, 99)] == [0.0, 1.0, 2.0, 1.0, 0.0, 0.0]
    assert float(make_schedule(AdamW(warmup=0.0), 5, 256)(0)) == float(np.float32(5e-5))


def test_stairs_fall_by_fifths():
    rate = make_schedule(AdamW(learning_rate=1e-5, warmup=0, schedule="stairs"), 10, 256)
    wanted = [1e-5, 1e-5, 8e-6, 8e-6, 6e-6, 6e-6, 4e-6, 4e-6, 2e-6, 2e-6, 2e-6]
    np.testing.assert_allclose([float(rate(n)) for n in range(11)], wanted, rtol=1e-6)
    warm = make_schedule(AdamW(learning_rate=1.0, warmup=5, schedule="stairs"), 10, 256)
    wanted = [0, 0.2, 0.4, 0.6, 0.8, 1, 0.8, 0.6, 0.4, 0.2]
    np.testing.assert_allclose([float(warm(n)) for n in range(10)], wanted, rtol=1e-6)


def test_stairs_of_a_length_of_their_own():
    """As those who published Contrastive Tension have them: at 500, 1,000, 1,500 and 2,000."""
    authors = AdamW(learning_rate=1e-5, warmup=0, schedule="stairs", stair_steps=500)
    rate = make_schedule(authors, 50_000, 16)
    steps = {0: 1e-5, 499: 1e-5, 500: 8e-6, 1000: 6e-6, 1999: 4e-6, 2000: 2e-6, 49_999: 2e-6}
    np.testing.assert_allclose([float(rate(n)) for n in steps], [*steps.values()], rtol=1e-6)
    with pytest.raises(UsageError, match=r"optimizer\.stair_steps is 0: give 1 or more, or null"):
        AdamW(schedule="stairs", stair_steps=0)
    with pytest.raises(UsageError, match=r"optimizer\.schedule linear: only stairs have any"):
        AdamW(stair_steps=500)


@pytest.mark.parametrize(("warmup", "steps"), [(0.0, 0), (0.1, 3), (0.11, 3), (1, 1), (21, 21)])
def test_warmup_is_a_fraction_or_a_number_of_steps(warmup, steps):
    assert warmup_steps(AdamW(warmup=warmup), 21) == steps


@pytest.mark.parametrize(("rule", "factor"), [("none", 1), ("sqrt", 2), ("linear", 4)])
def test_learning_rate_grows_with_the_batch(rule, factor):
    config = AdamW(learning_rate=1e-3, lr_scaling=rule, reference_batch_size=256)
    assert peak_learning_rate(config, 1024) == pytest.approx(factor * 1e-3)
    assert peak_learning_rate(config, 256) == pytest.approx(1e-3)
    flat = dataclasses.replace(config, schedule="constant", warmup=0.0)
    assert float(make_schedule(flat, 10, 1024)(3)) == pytest.approx(factor * 1e-3)


def test_a_warmup_longer_than_the_run():
    with pytest.raises(UsageError, match="warmup is 30 steps and the run has 25"):
        make_schedule(AdamW(warmup=30), 25, 256)
    with pytest.raises(UsageError, match="0 steps"):
        make_schedule(AdamW(), 0, 256)
