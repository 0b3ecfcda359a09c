import numpy as np
import pytest

from simjax.lab.precision import arithmetic, arms
from simjax.lab.precision.exact import exact, sigmoid
from simjax.lab.precision.settings import ArithmeticSettings

SETTINGS = ArithmeticSettings((8,), (0.1,), (1.0,), draws=2, width=8, anchors=4, pooled=16)


def test_compare():
    truth = np.array([[3.0, 0.0], [0.0, 4.0]])
    assert arithmetic.compare(truth, truth) == pytest.approx((0, 1, 1))
    assert arithmetic.compare(2 * truth, truth) == pytest.approx((1, 1, 2))
    assert arithmetic.compare(0 * truth, truth) == (1, 0, 0)
    turned = np.array([[0.0, 3.0], [4.0, 0.0]])
    assert arithmetic.compare(turned, truth) == pytest.approx((2**0.5, 0, 1))
    assert arithmetic.compare(truth * np.nan, truth) == (1, 0, 0)


def test_draws_are_unit_vectors_at_their_distance():
    x, y = arithmetic.draw(500, 0.3, 0, 384)
    for part in (x, y):
        np.testing.assert_allclose(np.linalg.norm(part, axis=1), 1, rtol=1e-6)
    assert (x * y).sum(1).mean() == pytest.approx(1 / (1 + 0.3**2) ** 0.5, abs=0.01)
    assert not np.array_equal(x, arithmetic.draw(500, 0.3, 1, 384)[0])
    assert np.array_equal(x, arithmetic.draw(500, 0.3, 0, 384)[0])


def test_a_measurement(monkeypatch):
    monkeypatch.setattr(arithmetic, "arithmetics", lambda: (arms.FLOAT32, arms.BFLOAT16))
    keys = list(arithmetic.keys(SETTINGS))
    assert keys == [{"batch": 8, "temperature": 0.1, "noise": 1.0, "draw": n} for n in (0, 1)]
    figures, other = (arithmetic.measure(key, SETTINGS) for key in keys)
    assert figures["exact"] != other["exact"]
    assert {way: set(forms) for way, forms in figures["errors"]["float32"].items()} == {
        "dense": set(arms.FORMS),
        "tiled": set(arms.FORMS),
    }
    # The operator's scores are float32.
    assert set(figures["errors"]["bfloat16"]) == {"dense"}
    assert figures["dcl_apart"] == 0
    assert figures["errors"]["float32"]["dense"]["softplus"][0] < 1e-5
    assert 1e-4 < figures["errors"]["bfloat16"]["dense"]["softplus"][0] < 0.2

    # A draw of two batches of 8, of which 4 anchors each.
    parts = []
    for number in (0, 1):
        x, y = arithmetic.draw(8, 1.0, number, 8)
        parts.append(exact(x[:4], y, 10.0))
    weights = sigmoid(np.concatenate([part.v for part in parts]))
    flat = np.concatenate([part.flatnce for part in parts])
    weighted = weights[:, None] * flat
    assert figures["exact"] == pytest.approx(
        {
            "mean_v": np.mean([part.v.mean() for part in parts]),
            "mean_weight": weights.mean(),
            "weight_cv": weights.std() / weights.mean(),
            "length_ratio": np.linalg.norm(weighted) / np.linalg.norm(flat),
            "cosine": (weighted * flat).sum() / np.linalg.norm(weighted) / np.linalg.norm(flat),
        }
    )


def test_tf32_is_a_gpus():
    assert "tf32" not in [how.name for how in arithmetic.arithmetics()]
