import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from simjax.errors import UsageError
from simjax.models.encoder import EncoderConfig
from simjax.models.heads import HeadConfig
from simjax.models.sentence_model import SentenceModel, merge, split
from simjax.types import NO_TEXT, Block
from tests.models.packed_rows import pack, random_texts, unpack

pytestmark = pytest.mark.usefixtures("strict_promotion")

ROW, WIDTH = 20, 24
CONFIG = EncoderConfig(
    vocab_size=50,
    hidden_size=WIDTH,
    num_layers=2,
    num_heads=3,
    intermediate_size=40,
    max_positions=ROW,
    initializer_range=0.2,
)
POOLINGS = ["cls", "cls_mlp", "cls_linear", "mean", "first_last_mean"]


def make(pooling, **options):
    model = SentenceModel(CONFIG, pooling, rngs=nnx.Rngs(0), **options)
    graphdef, params = split(model)
    biased = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(1), p.shape), params)
    return graphdef, biased


def linear(vector, head):
    kernel, bias = (torch.tensor(np.asarray(head[name])) for name in ("kernel", "bias"))
    return torch.nn.functional.linear(torch.tensor(vector), kernel.T, bias).numpy()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_poolings(pooling):
    graphdef, params = make(pooling)
    model, block = merge(graphdef, params), pack(random_texts(50), ROW, together=True)
    last, first = model.encoder(block.tokens, block.positions, block.text, with_first=True)
    expected = []
    for of_last, of_first in zip(unpack(last, block), unpack(first, block), strict=True):
        if pooling == "mean":
            expected.append(of_last.mean(0))
        elif pooling == "first_last_mean":
            expected.append((of_first.mean(0) + of_last.mean(0)) / 2)
        else:
            expected.append(of_last[0])
        if pooling == "cls_mlp":
            expected[-1] = np.tanh(linear(expected[-1], params["pooler"]))
        elif pooling == "cls_linear":
            expected[-1] = linear(expected[-1], params["pooler"])
    found = model(block)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-5)


def test_a_folders_heads_come_behind_the_pooling():
    heads = (HeadConfig(WIDTH, 7), HeadConfig(7, 5, "identity", use_bias=False))
    graphdef, params = make("mean", heads=heads)
    model, block = merge(graphdef, params), pack(random_texts(50), ROW, together=True)
    assert model.embedding_size == 5
    plain = merge(*make("mean"))(block)
    kernels = [np.asarray(params[f"head_{i}"]["kernel"]) for i in range(2)]
    hidden = np.tanh(np.asarray(plain) @ kernels[0] + np.asarray(params["head_0"]["bias"]))
    np.testing.assert_allclose(model(block), hidden @ kernels[1], atol=1e-5)
    weights = model.head_weights()
    np.testing.assert_array_equal(weights[0].weight, kernels[0].T)
    assert [w.activation for w in weights] == ["tanh", "identity"] and weights[1].bias is None


def test_the_training_head_can_be_left_out():
    block = pack(random_texts(50), ROW, together=True)
    graphdef, params = make("cls_mlp")
    model = merge(graphdef, params)
    plain = merge(make("cls")[0], {"encoder": params["encoder"]})(block)
    np.testing.assert_array_equal(model(block, training_head=False), plain)
    assert np.abs(np.asarray(model(block) - plain)).max() > 0.1
    assert model.head_weights(training_head=False) == []
    (head,) = model.head_weights()
    np.testing.assert_array_equal(head.weight.T, params["pooler"]["kernel"])
    # It is a part of cls_linear whether in training or not.
    model = merge(*make("cls_linear"))
    np.testing.assert_array_equal(model(block, training_head=False), model(block))
    assert len(model.head_weights(training_head=False)) == 1


@pytest.mark.parametrize("pooling", POOLINGS)
def test_absent_texts_are_zero_without_a_gradient(pooling):
    texts = random_texts(50, (4, 6, 3))
    block = pack(texts, ROW, together=True)
    # Texts 3 and 4 are absent; text 0 begins where their `first` points.
    block = Block(block.tokens, block.positions, block.text, jnp.pad(block.first, (0, 2)))
    graphdef, params = make(pooling, heads=(HeadConfig(WIDTH, WIDTH),))
    vectors = np.asarray(merge(graphdef, params)(block))
    np.testing.assert_array_equal(vectors[3:], 0.0)
    assert np.abs(vectors[:3]).min(1).max() > 0

    def absent(params):
        return jnp.sum(merge(graphdef, params)(block)[3:])

    for leaf in jax.tree.leaves(jax.grad(absent)(params)):
        np.testing.assert_array_equal(leaf, 0.0)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dropout_does_not_depend_on_how_blocks_are_cut(pooling, dtype):
    graphdef, params = make(pooling, dtype=dtype)
    blocks = [pack(random_texts(50, seed=s), ROW, together=True, rows=5) for s in range(4)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)
    key = jax.random.key(2)
    run = jax.jit(lambda b, place: merge(graphdef, params)(b, dropout_key=key, place=place))
    whole = run(stacked, jnp.arange(4))
    tolerance = 1e-5 if dtype == jnp.float32 else 3e-2
    for start in (0, 2):
        part = jax.tree.map(lambda leaf, s=start: leaf[s : s + 2], stacked)
        found = run(part, jnp.arange(start, start + 2))
        np.testing.assert_allclose(found, whole[start : start + 2], atol=tolerance)
    # A block by itself, and one with more rows of padding below.
    longer = jax.tree.map(jnp.asarray, blocks[3])
    below = [(0, 2), (0, 0)]
    longer = Block(
        jnp.pad(longer.tokens, below),
        jnp.pad(longer.positions, below),
        jnp.pad(longer.text, below, constant_values=NO_TEXT),
        longer.first,
    )
    for block in (blocks[3], longer):
        found = run(block, jnp.asarray([3]))
        np.testing.assert_allclose(found, whole[3], atol=tolerance)
    other = run(stacked, jnp.arange(1, 5))
    assert np.abs(np.asarray(other - whole)).max() > 0.05


def test_places_count_from_zero_unless_given():
    graphdef, params = make("mean")
    block = pack(random_texts(50), ROW, together=True)
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), block)
    model, key = merge(graphdef, params), jax.random.key(0)
    found = model(two, dropout_key=key)
    np.testing.assert_allclose(found, model(two, dropout_key=key, place=jnp.arange(2)), atol=1e-6)
    # Two views of one text: other masks, other vectors.
    assert np.abs(np.asarray(found[0] - found[1])).max() > 0.05


def test_gradient_against_finite_differences():
    graphdef, params = make("cls_mlp")
    block = pack(random_texts(50), ROW, together=True)
    direction = jax.tree.map(lambda p: jax.random.normal(jax.random.key(p.size), p.shape), params)

    @jax.jit
    def along(step):
        moved = jax.tree.map(lambda p, d: p + step * d, params, direction)
        vectors = merge(graphdef, moved)(block, dropout_key=jax.random.key(3))
        return jnp.sum(jnp.sin(3.0 * vectors))

    slope = jax.jit(jax.grad(along))(0.0)
    step = 2e-3
    differences = (along(step) - along(-step)) / (2 * step)
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
    with pytest.raises(UsageError, match="pooling 'max': choose from cls,"):
        SentenceModel(CONFIG, "max", rngs=nnx.Rngs(0))
