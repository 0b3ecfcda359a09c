import numpy as np
import pytest

from simjax.lab.precision import arithmetic, arms
from simjax.lab.precision.exact import exact, sigmoid
from simjax.lab.precision.settings import FORMS, ArithmeticSettings, input_keys

SETTINGS = ArithmeticSettings((8,), (0.1,), (1.0,), draws=2, width=8, anchors=4, pooled=16)


def test_compare():
    truth = np.array([[3.0, 0.0], [0.0, 4.0]])
    assert arithmetic.compare(truth, truth) == pytest.approx((0, 1, 1))
    assert arithmetic.compare(2 * truth, truth) == pytest.approx((1, 1, 2))
    assert arithmetic.compare(0 * truth, truth) == (1, 0, 0)
    turned = np.array([[0.0, 3.0], [4.0, 0.0]])
    assert arithmetic.compare(turned, truth) == pytest.approx((2**0.5, 0, 1))
    assert arithmetic.compare(truth * np.nan, truth) == (None, None, None)


def test_draws_are_unit_vectors_at_their_distance():
    x, y = arithmetic.draw(500, 0.3, 0, 384)
    for part in (x, y):
        np.testing.assert_allclose(np.linalg.norm(part, axis=1), 1, rtol=1e-6)
    assert (x * y).sum(1).mean() == pytest.approx(1 / (1 + 0.3**2) ** 0.5, abs=0.01)
    assert not np.array_equal(x, arithmetic.draw(500, 0.3, 1, 384)[0])
    assert np.array_equal(x, arithmetic.draw(500, 0.3, 0, 384)[0])


def test_a_measurement(monkeypatch):
    monkeypatch.setattr(arithmetic, "arithmetics", lambda: (arms.FLOAT32, arms.BFLOAT16))
    keys = list(input_keys(SETTINGS))
    assert keys == [{"batch": 8, "temperature": 0.1, "noise": 1.0, "draw": n} for n in (0, 1)]
    figures, other = (arithmetic.measure(key, SETTINGS) for key in keys)
    assert figures["exact"] != other["exact"]
    assert {way: set(forms) for way, forms in figures["errors"]["float32"].items()} == {
        "dense": set(FORMS),
        "tiled": set(FORMS),
    }
    # The operator's scores are float32.
    assert set(figures["errors"]["bfloat16"]) == {"dense"}
    assert figures["dcl_apart"] == 0
    assert figures["errors"]["float32"]["dense"]["softplus"][0] < 1e-5
    assert 1e-4 < figures["errors"]["bfloat16"]["dense"]["softplus"][0] < 0.2

    # A draw of two batches of 8, of which 4 anchors each: each batch by itself.
    each = []
    for number in (0, 1):
        x, y = arithmetic.draw(8, 1.0, number, 8)
        part = exact(x[:4], y, 10.0)
        weights, flat = sigmoid(part.v), part.flatnce
        weighted = weights[:, None] * flat
        lengths = np.linalg.norm(weighted), np.linalg.norm(flat)
        each.append(
            {
                "mean_v": part.v.mean(),
                "mean_weight": weights.mean(),
                "weight_cv": weights.std() / weights.mean(),
                "length_ratio": lengths[0] / lengths[1],
                "cosine": (weighted * flat).sum() / lengths[0] / lengths[1],
            }
        )
    # The median of two is their mean.
    assert figures["exact"] == pytest.approx(
        {name: (each[0][name] + each[1][name]) / 2 for name in each[0]}
    )


def test_one_anchor_of_a_batch_has_a_cosine_of_one(monkeypatch):
    """Batches of one draw that differ in scale alone do not lower the cosine."""
    monkeypatch.setattr(arithmetic, "arithmetics", lambda: (arms.FLOAT16_OPERANDS,))
    settings = ArithmeticSettings((2,), (0.05,), (1.0,), draws=1, anchors=1, pooled=8)
    key = {"batch": 2, "temperature": 0.05, "noise": 1.0, "draw": 0}
    figures = arithmetic.measure(key, settings)
    # The operator takes no float16.
    assert set(figures["errors"]["float16 operands"]) == {"dense"}
    assert figures["exact"]["cosine"] == pytest.approx(1)
    assert figures["exact"]["weight_cv"] == pytest.approx(0)


def test_the_operator_is_given_the_bound_that_training_gives_it(monkeypatch):
    given = []

    def tiled_loss(form, x, y, scale, dtype, max_scale):
        given.append(max_scale)
        return (x * 0).sum()

    monkeypatch.setattr(arithmetic, "tiled_loss", tiled_loss)
    monkeypatch.setattr(arithmetic, "arithmetics", lambda: (arms.FLOAT32,))
    arithmetic._tiled.cache_clear()
    for temperature in (0.1, 0.02):
        arithmetic.measure(dict(batch=8, temperature=temperature, noise=1.0, draw=0), SETTINGS)
    arithmetic._tiled.cache_clear()
    assert set(given) == {1 / 0.1, 1 / 0.02}


def test_a_gap_is_not_hidden_by_what_is_not_finite():
    a = np.array([[1.0, np.nan], [np.inf, 2.0]])
    assert arithmetic.largest_gap(a, a) == 0
    assert arithmetic.largest_gap(a, np.array([[1.0, np.nan], [np.inf, 2.5]])) == 0.5
    assert arithmetic.largest_gap(a, np.array([[1.0, 0.0], [np.inf, 2.0]])) == np.inf
    assert arithmetic.largest_gap(np.array([[np.nan]]), np.array([[1.0]])) == np.inf


def test_tf32_is_a_gpus():
    assert "tf32" not in [how.name for how in arithmetic.arithmetics()]
