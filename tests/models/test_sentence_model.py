import dataclasses
from functools import cache
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from simjax.errors import UsageError
from simjax.models.encoder import EncoderConfig
from simjax.models.heads import HeadConfig
from simjax.models.pooling import Pooling
from simjax.models.sentence_model import SentenceModel, merge, split
from simjax.types import NO_TEXT, Block
from tests.models.packed_rows import pack, random_texts, unpack
from tests.models.quick import quick_jit

pytestmark = pytest.mark.usefixtures("strict_promotion")

ROW, WIDTH = 20, 24
CONFIG = EncoderConfig(
    vocab_size=50,
    hidden_size=WIDTH,
    num_layers=3,
    num_heads=3,
    intermediate_size=40,
    max_positions=ROW,
    initializer_range=0.2,
)
POOLINGS = get_args(Pooling)


@cache
def make(pooling, **options):
    graphdef, params = split(SentenceModel(CONFIG, pooling, rngs=nnx.Rngs(0), **options))
    rng = np.random.default_rng(1)
    return graphdef, jax.tree.map(
        lambda p: jnp.asarray(p + 0.1 * rng.normal(size=p.shape), jnp.float32), params
    )


def linear(vector, head):
    kernel, bias = (torch.tensor(np.asarray(head[name])) for name in ("kernel", "bias"))
    return torch.nn.functional.linear(torch.tensor(vector), kernel.T, bias).numpy()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_poolings(pooling):
    graphdef, params = make(pooling)
    model, block = merge(graphdef, params), pack(random_texts(50), ROW, together=True)

    def states(number):
        encode = quick_jit(lambda b: model.encoder(b.tokens, b.positions, b.text, also=number))
        return unpack(encode(block)[1], block)

    expected = []
    for first, before, last in zip(states(1), states(2), states(3), strict=True):
        length = len(last)
        expected.append(
            {
                "mean": last.mean(0),
                "mean_sqrt_length": last.sum(0) / np.sqrt(length),
                "first_last_mean": (first.mean(0) + last.mean(0)) / 2,
                "top2_mean": (before.mean(0) + last.mean(0)) / 2,
                "weighted_mean": np.average(last, axis=0, weights=np.arange(1, length + 1)),
                "max": last.max(0),
                "last_token": last[-1],
            }.get(pooling, last[0])
        )
        if pooling == "cls_mlp":
            expected[-1] = np.tanh(linear(expected[-1], params["pooler"]))
        elif pooling == "cls_linear":
            expected[-1] = linear(expected[-1], params["pooler"])
    found = quick_jit(model)(block)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-5)


def test_a_folders_heads_come_behind_the_pooling():
    heads = (HeadConfig(WIDTH, 7), HeadConfig(7, 5, "identity", use_bias=False))
    graphdef, params = make("mean", heads=heads)
    model, block = merge(graphdef, params), pack(random_texts(50), ROW, together=True)
    assert model.embedding_size == 5
    plain = quick_jit(merge(*make("mean")))(block)
    kernels = [np.asarray(params[f"head_{i}"]["kernel"]) for i in range(2)]
    hidden = np.tanh(np.asarray(plain) @ kernels[0] + np.asarray(params["head_0"]["bias"]))
    np.testing.assert_allclose(quick_jit(model)(block), hidden @ kernels[1], atol=1e-5)
    weights = model.head_weights()
    np.testing.assert_array_equal(weights[0].weight, kernels[0].T)
    assert [w.activation for w in weights] == ["tanh", "identity"] and weights[1].bias is None


def test_the_training_head_can_be_left_out():
    block = pack(random_texts(50), ROW, together=True)
    graphdef, params = make("cls_mlp")
    model = merge(graphdef, params)

    @quick_jit
    def run(block):
        cls = merge(make("cls")[0], {"encoder": params["encoder"]})
        return model(block), model(block, training_head=False), cls(block)

    with_head, without, plain = run(block)
    np.testing.assert_allclose(without, plain, atol=1e-6)
    assert np.abs(np.asarray(with_head - plain)).max() > 0.1
    assert model.head_weights(training_head=False) == []
    (head,) = model.head_weights()
    np.testing.assert_array_equal(head.weight.T, params["pooler"]["kernel"])


def test_cls_linear_is_no_training_head():
    block = pack(random_texts(50), ROW, together=True)
    model = merge(*make("cls_linear"))
    found = quick_jit(lambda b: (model(b), model(b, training_head=False)))(block)
    np.testing.assert_allclose(*found, atol=1e-6)
    assert len(model.head_weights(training_head=False)) == 1


@pytest.mark.parametrize("pooling", ["cls_mlp", "mean"])
def test_absent_texts_are_zero_without_a_gradient(pooling):
    texts = random_texts(50, (4, 6, 3))
    block = pack(texts, ROW, together=True)
    # Texts 3 and 4 are absent; text 0 begins where their `first` points.
    block = Block(block.tokens, block.positions, block.text, jnp.pad(block.first, (0, 2)))
    graphdef, params = make(pooling, heads=(HeadConfig(WIDTH, WIDTH),))

    @quick_jit
    def run(params, cotangent):
        vectors, pull = jax.vjp(lambda params: merge(graphdef, params)(block), params)
        return vectors, pull(cotangent)[0]

    vectors, gradient = run(params, jnp.ones((5, WIDTH)).at[:3].set(0.0))
    np.testing.assert_array_equal(vectors[3:], 0.0)
    assert np.abs(vectors[:3]).max(1).min() > 0
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_array_equal(leaf, 0.0)


@pytest.mark.parametrize(
    ("pooling", "dtype", "tolerance"),
    [("first_last_mean", jnp.float32, 1e-5), ("cls_mlp", jnp.bfloat16, 3e-2)],
)
def test_dropout_does_not_depend_on_how_blocks_are_cut(pooling, dtype, tolerance):
    graphdef, params = make(pooling, dtype=dtype)
    blocks = [pack(random_texts(50, seed=s), ROW, together=True, rows=5) for s in (0, 1, 1, 2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)
    key = jax.random.key(2)
    run = quick_jit(lambda b, place: merge(graphdef, params)(b, dropout_key=key, place=place))
    whole = run(stacked, jnp.arange(4))
    # Two views of one block at two places: other masks, other vectors.
    assert np.abs(np.asarray(whole[1] - whole[2])).max() > 0.05
    first, second = (jax.tree.map(lambda x, s=s: x[s : s + 2], stacked) for s in (0, 2))
    # Places count from zero unless given.
    np.testing.assert_allclose(run(first, None), whole[:2], atol=tolerance)
    np.testing.assert_allclose(run(second, jnp.asarray([2, 3])), whole[2:], atol=tolerance)
    # A block by itself, with more rows of padding below.
    below = [(0, 2), (0, 0)]
    longer = Block(
        jnp.pad(blocks[3].tokens, below),
        jnp.pad(blocks[3].positions, below),
        jnp.pad(blocks[3].text, below, constant_values=NO_TEXT),
        blocks[3].first,
    )
    np.testing.assert_allclose(run(longer, jnp.asarray([3])), whole[3], atol=tolerance)


def test_gradient_against_finite_differences():
    graphdef, params = make("cls_mlp")
    block = pack(random_texts(50), ROW, together=True)
    rng = np.random.default_rng(2)
    direction = jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), params)

    def along(step):
        moved = jax.tree.map(lambda p, d: p + step * d, params, direction)
        vectors = merge(graphdef, moved)(block, dropout_key=jax.random.key(3))
        return jnp.sum(jnp.sin(3.0 * vectors))

    slope = quick_jit(jax.grad(along))(0.0)
    step = 2e-3
    compiled = quick_jit(along)
    differences = (compiled(step) - compiled(-step)) / (2 * step)
    assert abs(slope) > 1.0
    np.testing.assert_allclose(slope, differences, rtol=1e-2)


def test_split_and_merge_are_inverse():
    model = SentenceModel(CONFIG, "cls_mlp", rngs=nnx.Rngs(0))
    graphdef, params = split(model)
    assert set(params) == {"encoder", "pooler"}
    assert {path[-1].key for path, _ in jax.tree.leaves_with_path(params)} == {
        "kernel",
        "bias",
        "scale",
        "embedding",
    }
    again, same = split(merge(graphdef, params))
    assert again == graphdef
    jax.tree.map(np.testing.assert_array_equal, same, params)


def test_unknown_pooling():
    with pytest.raises(UsageError, match="pooling 'sum': choose from cls,"):
        SentenceModel(CONFIG, "sum", rngs=nnx.Rngs(0))
    shallow = dataclasses.replace(CONFIG, num_layers=1)
    with pytest.raises(UsageError, match="top2_mean needs an encoder of two layers"):
        SentenceModel(shallow, "top2_mean", rngs=nnx.Rngs(0))
