"""A guide's false negatives against a float64 statement and sentence-transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer.losses import gist_embed

from simjax.errors import UsageError
from simjax.objectives.config import ContrastiveConfig, GuideConfig
from simjax.objectives.contrastive import contrastive_loss
from simjax.objectives.uniformity import Views
from tests.objectives.definition import Definition
from tests.objectives.drawn import assert_gradient
from tests.objectives.test_contrastive import distinct_ids, embeddings, shared_ids

pytestmark = pytest.mark.usefixtures("strict_promotion")


def guide_vectors(n, views, width=6, seed=7):
    """Vectors that leave some keys above the positive and some below."""
    x = np.random.default_rng(seed).normal(size=(n, views, width))
    x[:, 1:] += 0.7 * x[:, :1]
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def ours(x, guide, config, *, ids, positives=1, dtype=jnp.float32):
    n = len(x)
    views = Views(positives, False, n)

    def loss(x):
        return contrastive_loss(
            *(x, jnp.asarray(ids), jnp.full(n, -1), jnp.arange(n), 1 / config.temperature),
            *(config, views),
            guide=jnp.asarray(guide),
            dtype=dtype,
        )[0]

    return jax.jit(jax.value_and_grad(loss))(jnp.asarray(x))


class Guided(Definition):
    """Every row, be it an anchor or a positive, goes by how alike its own pair is."""

    def __init__(self, x, guide, config, ids, positives):
        super().__init__(x, config, ids, np.full(len(x), -1), positives)
        self.guide = np.asarray(guide, np.float64)
        self.row = (0, 1)

    def alike(self, a, b):
        return float(self.guide[a] @ self.guide[b])

    def limit(self, i, p):
        alike, margin = self.alike((i, 0), (i, p)), self.config.guide.margin
        if self.config.guide.margin_strategy == "relative":
            return alike - margin * abs(alike)
        return alike - margin

    def anchor_limit(self, i):
        there = [p for p in range(1, 1 + self.positives) if self.ids[i, p] != -1]
        return min([self.limit(i, p) for p in there], default=np.inf)

    def log_odds(self, i, p, direction):
        self.row = (i, p)
        return super().log_odds(i, p, direction)

    def negative(self, a, b):
        i, p = self.row
        limit = self.anchor_limit(i) if a == (i, 0) else self.limit(i, p)
        return super().negative(a, b) and self.alike(a, b) <= limit

    def own_hard(self, i):
        for h in range(1 + self.positives, self.views):
            taken = {int(self.ids[i, v]) for v in range(1 + self.positives)}
            if self.ids[i, h] == -1 or int(self.ids[i, h]) in taken:
                continue
            if self.alike((i, 0), (i, h)) <= self.anchor_limit(i):
                yield self.scores[i, 0, i, h] + np.log(self.config.hard_negative_weight)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("directions", ["forward", "symmetric", "joint", "views"])
@pytest.mark.parametrize("positives", [1, 2])
@pytest.mark.parametrize(
    "guide",
    [GuideConfig("m"), GuideConfig("m", 0.1), GuideConfig("m", 0.3, "relative")],
    ids=["bare", "absolute", "relative"],
)
def test_value_and_gradient_are_the_definition_s_in_float64(directions, positives, guide):
    ids = shared_ids(10, 4)
    x = np.where((ids == -1)[..., None], 0, embeddings(n=10, views=4)).astype(np.float32)
    vectors = np.where((ids == -1)[..., None], 0, guide_vectors(10, 4)).astype(np.float32)
    config = ContrastiveConfig(directions=directions, guide=guide, hard_negative_weight=2.5)
    value, grad = ours(x, vectors, config, ids=ids, positives=positives)
    stated = Guided(x, vectors, config, ids, positives)
    np.testing.assert_allclose(float(value), stated.loss(), rtol=2e-6, atol=2e-6)
    assert_gradient(grad, stated.gradient())
    unguided = Definition(x, config, ids, np.full(10, -1), positives).loss()
    assert abs(unguided - stated.loss()) > 1e-3


@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize(
    ("strategy", "margin"), [("absolute", 0.0), ("absolute", 0.1), ("relative", 0.2)]
)
def test_it_is_the_gist_embed_loss(monkeypatch, views, strategy, margin):
    x, vectors = embeddings(views=views), guide_vectors(12, views)
    leaf = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    columns = {
        "model": [leaf[:, view] for view in range(views)],
        "guide": [torch.tensor(vectors[:, view]).double() for view in range(views)],
    }
    monkeypatch.setattr(gist_embed, "embed_columns", lambda who, features: columns[who])
    peer = gist_embed.GISTEmbedLoss.__new__(gist_embed.GISTEmbedLoss)
    torch.nn.Module.__init__(peer)
    peer.__dict__ |= {
        **{"model": "model", "guide": "guide", "must_retokenize": False, "temperature": 0.05},
        **{"margin": margin, "margin_strategy": strategy, "gather_across_devices": False},
        **{"contrast_anchors": False, "contrast_positives": False},
        "similarity_fct": torch.nn.CosineSimilarity(dim=-1),
        "cross_entropy_loss": torch.nn.CrossEntropyLoss(),
    }
    expected = peer([{}] * views, torch.zeros(0))
    expected.backward()
    guide = GuideConfig("m", margin, strategy)
    config = ContrastiveConfig(guide=guide, false_negatives="none")
    value, grad = ours(x, vectors, config, ids=distinct_ids(12, views))
    np.testing.assert_allclose(float(value), expected.item(), rtol=1e-6)
    assert_gradient(grad, leaf.grad.numpy())


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_key_as_close_as_the_positive_stays_a_negative(dtype):
    """Rounding of the guide's vectors must not decide it: here all pairs are equally close."""
    vectors = np.repeat(guide_vectors(12, 2)[:1], 12, axis=0)
    config = ContrastiveConfig(guide=GuideConfig("m"))
    x, ids = embeddings(), distinct_ids(12, 2)
    value, _ = ours(x, vectors, config, ids=ids, dtype=dtype)
    plain, _ = ours(x, vectors, ContrastiveConfig(), ids=ids, dtype=dtype)
    assert float(value) == float(plain) > 0


def test_a_margin_beyond_its_range_is_refused():
    for margin in (-0.1, 1.0, float("nan")):
        with pytest.raises(UsageError, match=r"objective\.guide\.margin is"):
            GuideConfig("m", margin)
