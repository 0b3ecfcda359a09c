"""What distributions are cut to, and whether draws follow them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy import stats
from transformers import LogitsProcessorList, TopKLogitsWarper, TopPLogitsWarper
from transformers.generation import TemperatureLogitsWarper

from simjax.errors import UsageError
from simjax.generate.sampling import SamplingConfig, draw, truncated

CASES = [
    (1.0, 40, 1.0),
    (0.7, 5, 1.0),
    (1.0, 40, 0.8),
    (1.5, 12, 0.6),
    (1.0, 1, 1.0),
    (1.0, 40, 1e-9),
]


def logits(rows=6, size=40, seed=0):
    return 2 * np.random.default_rng(seed).normal(size=(rows, size)).astype(np.float32)


def by_transformers(x, temperature, top_k, top_p):
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature), TopKLogitsWarper(top_k)])
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    return warpers(None, torch.tensor(x)).softmax(-1).numpy()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_distributions_are_those_of_transformers(case):
    x = logits()
    ordered, tokens = truncated(jnp.asarray(x), *case)
    found = np.zeros_like(x)
    np.put_along_axis(found, np.asarray(tokens), np.asarray(jax.nn.softmax(ordered)), axis=-1)
    np.testing.assert_allclose(found, by_transformers(x, *case), atol=1e-6)


@pytest.mark.parametrize("case", CASES[:4], ids=str)
def test_draws_follow_the_distribution(case):
    """A chi-squared test of 20,000 draws, and none from the tail."""
    x = logits(rows=1)
    many = jnp.broadcast_to(jnp.asarray(x), (20_000, x.shape[1]))
    drawn = np.bincount(np.asarray(draw(jax.random.key(3), many, *case)), minlength=x.shape[1])
    expected = by_transformers(x, *case)[0].astype(np.float64)
    assert drawn[expected == 0].sum() == 0
    # Rare tokens together, as the test wants it.
    common = expected * len(many) > 5
    counts = np.append(drawn[common], drawn[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum()) * len(many)
    kept = wanted > 0
    assert stats.chisquare(counts[kept], wanted[kept] * counts.sum() / wanted.sum()).pvalue > 1e-3


def test_of_equally_likely_tokens_no_more_than_k_are_kept():
    ordered, tokens = truncated(jnp.zeros((1, 9)), 1.0, 3, 1.0)
    assert np.isfinite(ordered).sum() == 3
    assert np.asarray(tokens)[0, :3].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("count", 0),
        ("top_k", 0),
        ("max_length", 0),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("top_p", float("nan")),
        ("temperature", 0.0),
        ("temperature", float("inf")),
        ("seed", -1),
    ],
)
def test_numbers_out_of_range_are_refused(option, value):
    with pytest.raises(UsageError, match=rf"^{option} is "):
        SamplingConfig(**{option: value})
