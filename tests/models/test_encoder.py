"""The encoder against transformers, and under the transformations that training puts it through."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx
from jax import P

from simjax.errors import UsageError
from simjax.models import dropout as drop
from simjax.models import hf
from simjax.models.encoder import EncoderConfig
from simjax.models.sentence_model import SentenceModel, merge, split
from tests.models.packed_rows import pack, random_texts, unpack
from tests.models.peers import peer_states, random_peer
from tests.models.quick import quick_jit

pytestmark = pytest.mark.usefixtures("strict_promotion")

ROW = 20
TINY = EncoderConfig(
    vocab_size=50,
    hidden_size=24,
    num_layers=3,
    num_heads=3,
    intermediate_size=40,
    max_positions=ROW,
    initializer_range=0.2,
)


@pytest.mark.parametrize("activation", ["gelu_new", "gelu_pytorch_tanh", "relu", "silu"])
def test_activations(tmp_path, activation):
    peer = random_peer("bert", hidden_act=activation)
    peer.save_pretrained(tmp_path)
    model, texts = hf.load(tmp_path).model, random_texts(50)
    block = pack(texts, ROW, together=True)
    last, _ = quick_jit(lambda b: model.encoder(b.tokens, b.positions, b.text))(block)
    for ours, (_, peers) in zip(unpack(last, block), peer_states(peer, texts), strict=True):
        np.testing.assert_allclose(ours, peers, atol=1e-5)


def embed(graphdef, block, **options):
    return quick_jit(lambda params: merge(graphdef, params)(block, **options))


def test_bfloat16_stays_near_float32():
    block = pack(random_texts(50), ROW, together=True)
    wide, narrow = (
        np.asarray(quick_jit(SentenceModel(TINY, "mean", dtype=dtype, rngs=nnx.Rngs(0)))(block))
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert wide.dtype == narrow.dtype == np.float32
    error = np.linalg.norm(wide - narrow, axis=1) / np.linalg.norm(wide, axis=1)
    assert 1e-5 < error.max() < 0.03


def test_unrolling_changes_nothing():
    block = pack(random_texts(50), ROW, together=True)
    values = []
    for unroll in (1, 3):
        config = dataclasses.replace(TINY, unroll=unroll)
        graphdef, params = split(SentenceModel(config, "mean", rngs=nnx.Rngs(0)))
        values.append(embed(graphdef, block, dropout_key=jax.random.key(0))(params))
    np.testing.assert_allclose(*values, atol=1e-6)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(jnp.bfloat16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("remat", ["layer", "products"])
def test_computing_anew_changes_no_gradient_and_saves_memory(remat, dtype):
    config = dataclasses.replace(TINY, num_layers=12)
    graphdef, params = split(SentenceModel(config, "mean", dtype=dtype, rngs=nnx.Rngs(0)))
    block = pack(random_texts(50), ROW, together=True)

    def gradient(remat):
        def loss(params):
            key = jax.random.key(5)
            vectors = merge(graphdef, params)(block, dropout_key=key, remat=remat)
            return jnp.sum(jnp.sin(vectors))

        return jax.jit(jax.grad(loss)).lower(params).compile()

    kept, anew = gradient(None), gradient(remat)
    tolerance = 1e-5 if dtype == jnp.float32 else 2e-2
    for found, expected in zip(*map(jax.tree.leaves, (anew(params), kept(params))), strict=True):
        np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max() + 1e-6)
    if (remat, dtype) == ("products", jnp.bfloat16):
        return  # the CPU compiler keeps bfloat16 outputs of a loop in float32
    bytes_of = [c.memory_analysis().temp_size_in_bytes for c in (anew, kept)]
    assert bytes_of[0] < (0.4 if remat == "layer" else 0.7) * bytes_of[1]


def by_hand(params, block, keys, config):
    """The encoder in float64, dropping what the masks of each layer and site say."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["encoder"])
    rows, length = block.tokens.shape

    def dropped(x, site):
        keep = drop.keep_mask(keys, site, x.shape[1:], config.hidden_dropout)
        return np.where(keep, x / (1.0 - 26 / 256), 0.0)

    def norm(x, weights):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + config.layer_norm_eps)
        return x * weights["scale"] + weights["bias"]

    tables = p["embeddings"]
    x = tables["word"]["embedding"][block.tokens] + tables["position"]["embedding"][block.positions]
    x = dropped(norm(x + tables["token_type"]["embedding"][0], tables["norm"]), 0)
    allowed = (block.text[:, :, None] == block.text[:, None, :])[:, None]
    for number in range(config.num_layers):
        layer = jax.tree.map(lambda leaf, n=number: leaf[n], p["layers"])
        site = 4 * (number + 1)

        def dense(x, name, layer=layer):
            kernel, bias = layer[name]["kernel"], layer[name]["bias"]
            return x @ kernel.reshape(len(kernel), -1) + bias.reshape(-1)

        q, k, v = (
            part.reshape(rows, length, config.num_heads, -1).transpose(0, 2, 1, 3)
            for part in np.split(dense(x, "qkv"), 3, axis=-1)
        )
        scores = np.where(allowed, q @ k.swapaxes(2, 3) / np.sqrt(q.shape[-1]), -np.inf)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        scores = dropped(scores.swapaxes(2, 3), site).swapaxes(2, 3)
        context = (scores @ v).transpose(0, 2, 1, 3).reshape(x.shape)
        attended = dropped(dense(context, "attention_output"), site + 1)
        x = norm(x + attended, layer["attention_norm"])
        inner = dense(x, "intermediate")
        inner = inner * scipy.stats.norm.cdf(inner)
        x = norm(x + dropped(dense(inner, "output"), site + 2), layer["output_norm"])
    return x


def test_dropout_in_every_layer_and_site():
    """Equal to the definition, in which every layer and site has a mask of its own."""
    model = SentenceModel(TINY, "mean", rngs=nnx.Rngs(0))
    block = pack(random_texts(50), ROW, together=True)
    keys = drop.row_keys(jax.random.key(5), jnp.arange(1), block.tokens.shape[0])
    found, _ = quick_jit(lambda b: model.encoder(b.tokens, b.positions, b.text, keys=keys))(block)
    expected = by_hand(split(model)[1], jax.tree.map(np.asarray, block), keys, TINY)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_one_layer_is_the_first_and_the_last():
    config = dataclasses.replace(TINY, num_layers=1)
    model = SentenceModel(config, "first_last_mean", rngs=nnx.Rngs(0))
    block = pack(random_texts(50), ROW, together=True)
    states = quick_jit(lambda b: model.encoder(b.tokens, b.positions, b.text, also=1))
    last, first = states(block)
    np.testing.assert_array_equal(last, first)


def test_gather_layer_sees_one_layer_at_a_time():
    graphdef, params = split(SentenceModel(TINY, "mean", rngs=nnx.Rngs(0)))
    block = pack(random_texts(50), ROW, together=True)
    seen = []

    def gather(layer):
        seen.append(jax.tree.map(jnp.shape, layer))
        return jax.tree.map(lambda leaf: 2.0 * leaf, layer)

    halved = jax.tree.map(lambda leaf: 0.5 * leaf, params["encoder"]["layers"])
    params_halved = {"encoder": params["encoder"] | {"layers": halved}}
    found = embed(graphdef, block, gather_layer=gather)(params_halved)
    np.testing.assert_allclose(found, embed(graphdef, block)(params), atol=1e-6)
    assert seen[0]["qkv"] == {"kernel": (24, 3, 24), "bias": (3, 24)}


def dot_operands(jaxpr, found):
    """(operand dtypes, elements of the largest operand) of every product, however deep."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            avals = [v.aval for v in equation.invars]
            found.append(({str(a.dtype) for a in avals}, max(a.size for a in avals)))
        for value in equation.params.values():
            for inner in jax.tree.leaves(value, is_leaf=lambda x: hasattr(x, "eqns")):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    dot_operands(inner, found)
    return found


def test_products_of_the_backward_pass_are_bfloat16():
    graphdef, params = split(SentenceModel(TINY, "cls_mlp", dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    block = pack(random_texts(50), ROW, together=True)

    def loss(params):
        return jnp.sum(jnp.square(merge(graphdef, params)(block, dropout_key=jax.random.key(0))))

    found = dot_operands(jax.make_jaxpr(jax.grad(loss))(params).jaxpr, [])
    # Four dense layers and two attention products, each with two more in the backward pass.
    narrow = [f for f in found if f[0] == {"bfloat16"}]
    assert len(narrow) == 3 * 6
    # The pooler's head works on one vector per text and stays in float32.
    assert all(f[0] == {"float32"} and f[1] <= 24 * 24 for f in found if f not in narrow)


@pytest.mark.parametrize(
    ("pooling", "dtype"), [("first_last_mean", jnp.float32), ("cls_mlp", jnp.bfloat16)]
)
def test_shard_map_over_two_devices(pooling, dtype):
    """Blocks split over a mesh: the same vectors and, summed, the same gradients."""
    graphdef, params = split(SentenceModel(TINY, pooling, dtype=dtype, rngs=nnx.Rngs(0)))
    blocks = [pack(random_texts(50, seed=s), ROW, together=True, rows=5) for s in range(4)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)
    key, place = jax.random.key(7), jnp.arange(4)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def value_and_gradient(params, blocks, place):
        def loss(params):
            vectors = merge(graphdef, params)(blocks, dropout_key=key, place=place)
            return jnp.sum(jnp.sin(vectors)), vectors

        (_, vectors), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return vectors, gradient

    def local(params, blocks, place):
        varying = jax.tree.map(lambda p: jax.lax.pcast(p, "data", to="varying"), params)
        vectors, gradient = value_and_gradient(varying, blocks, place)
        return vectors, jax.lax.psum(gradient, "data")

    sharded = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(P(), P("data"), P("data")),
        out_specs=(P("data"), P()),
        check_vma=True,
    )
    vectors, gradient = quick_jit(sharded)(params, stacked, place)
    whole, whole_gradient = quick_jit(value_and_gradient)(params, stacked, place)
    np.testing.assert_allclose(vectors, whole, atol=1e-5 if dtype == jnp.float32 else 1e-2)
    for found, expected in zip(
        jax.tree.leaves(gradient), jax.tree.leaves(whole_gradient), strict=True
    ):
        scale = np.abs(expected).max() + 1e-6
        limit = 1e-5 if dtype == jnp.float32 else 2e-2
        np.testing.assert_allclose(found, expected, atol=limit * scale)


def test_random_weights():
    config = dataclasses.replace(TINY, initializer_range=0.02, vocab_size=400)
    _, params = split(SentenceModel(config, "cls_mlp", rngs=nnx.Rngs(0)))
    for path, leaf in jax.tree.leaves_with_path(params):
        name = path[-1].key
        assert leaf.dtype == jnp.float32
        if name in ("kernel", "embedding"):
            error = 5 / np.sqrt(2 * leaf.size)
            np.testing.assert_allclose(np.std(leaf), 0.02, rtol=error)
        else:
            np.testing.assert_array_equal(leaf, {"bias": 0.0, "scale": 1.0}[name])
    layers = params["encoder"]["layers"]["qkv"]["kernel"]
    assert np.abs(np.asarray(layers[0] - layers[1])).max() > 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 5}, "hidden_size 24 is no multiple of encoder.num_heads 5"),
        ({"num_layers": 0}, "num_layers must be at least 1"),
        ({"family": "gpt"}, "family 'gpt'"),
        ({"activation": "tanh"}, "activation 'tanh'"),
        ({"hidden_dropout": 0.01}, "dropout rate 0.01"),
    ],
)
def test_impossible_shapes(change, message):
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(TINY, **change)
