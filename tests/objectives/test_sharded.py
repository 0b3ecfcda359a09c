"""Every objective gives the value and gradient of one device on any mesh."""

import itertools
import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import P
from jax.sharding import AxisType, Mesh

from simjax.objectives.config import ContrastiveConfig, GuideConfig, SigmoidConfig
from simjax.objectives.contrastive import Contrastive, contrastive_loss
from simjax.objectives.sigmoid import Sigmoid
from simjax.objectives.uniformity import Views
from simjax.ops.sharded import bytes_held
from tests.objectives.drawn import examples, on_devices

pytestmark = pytest.mark.usefixtures("strict_promotion")
EXAMPLES, VIEWS, WIDTH = 32, 3, 10
AXES = ("slice", "data", "fsdp")
OBJECTIVES = list(
    itertools.product(["infonce", "flatnce", "dcl"], ["forward", "symmetric", "joint", "views"])
)

VIEWS_OF_PAIRS = Views(positives=1, one_distribution=False, group=4)


@cache
def on_mesh(shape, config, exchange):
    """Loss, metrics and gradients of embeddings and scale; texts repeat within and across."""
    shape = (1,) * (3 - len(shape)) + shape
    devices = np.asarray(jax.devices()[: math.prod(shape)]).reshape(shape)
    mesh = Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 3)
    random = np.random.default_rng(0)
    x = random.normal(size=(EXAMPLES, VIEWS, WIDTH)).astype(np.float32)
    x[:, 1] += x[:, 0]
    ids = random.integers(0, 80, (EXAMPLES, VIEWS)).astype(np.int32)
    ids[3, 2] = ids[20, 1] = -1  # one without a hard negative, one without a positive
    views = Views(positives=1, one_distribution=False, group=4)
    seen = random.normal(size=(EXAMPLES, VIEWS, 6)).astype(np.float32)
    seen /= np.linalg.norm(seen, axis=-1, keepdims=True)

    def local(x, ids, example, seen):
        scale = jax.lax.pcast(jnp.float32(1 / config.temperature), AXES, to="varying")
        labels = jnp.full_like(example, -1)

        def loss(x, scale):
            options = {"exchange": exchange, "guide": seen if config.guide else None}
            return contrastive_loss(x, ids, labels, example, scale, config, views, **options)

        (value, metrics), (d_x, d_scale) = jax.value_and_grad(loss, (0, 1), has_aux=True)(x, scale)
        return jax.lax.psum((value, d_scale), AXES), metrics, d_x

    part = P(AXES)
    run = jax.shard_map(local, mesh=mesh, in_specs=part, out_specs=(P(), P(), part))
    found = jax.jit(run)(x, ids, np.arange(EXAMPLES, dtype=np.int32), seen)
    return jax.tree.map(np.asarray, found)


def assert_same(ours, expected):
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=5e-6 * max(1, np.abs(other).max()))


@pytest.mark.sampled(5)
@pytest.mark.parametrize("exchange", ["all_gather", pytest.param("ring", marks=pytest.mark.slow)])
@pytest.mark.parametrize("objective", OBJECTIVES, ids="-".join)
def test_three_axes_are_one_device(objective, exchange):
    config = ContrastiveConfig(*objective, hard_negative_weight=2.0)
    assert_same(on_mesh((2, 2, 2), config, exchange), on_mesh((1,), config, "all_gather"))


@pytest.mark.parametrize("exchange", ["all_gather", "ring"])
@pytest.mark.parametrize("shape", [(2,), (4,), (8,), (4, 2)], ids=str)
def test_the_gradient_does_not_depend_on_the_device_count(shape, exchange):
    config = ContrastiveConfig("infonce", "symmetric", temperature=0.02, learnable_temperature=True)
    assert_same(on_mesh(shape, config, exchange), on_mesh((1,), config, "all_gather"))


@pytest.mark.parametrize(
    "objective",
    [
        Sigmoid(SigmoidConfig(), VIEWS_OF_PAIRS, exchange="ring"),
        Contrastive(ContrastiveConfig(directions="symmetric"), VIEWS_OF_PAIRS, exchange="ring"),
    ],
    ids=["sigmoid", "log-sum-exp"],
)
def test_on_a_ring_memory_does_not_grow_with_the_devices(objective):
    """Of a device that has the same examples whatever the number of devices."""
    own, width = 64, 64
    params = objective.init(width, jax.random.key(0))
    found = {}
    for devices in (1, 2, 4, 8):
        vectors = np.zeros((devices * own, 2, width), np.float32)
        program = on_devices(objective, (devices, 1)).lower(params, examples(vectors)).compile()
        found[devices] = program.memory_analysis().temp_size_in_bytes
    small = 1024  # of what is counted by devices; gathered keys are 16 KiB for each
    assert max(found[4], found[8]) <= found[2] + small
    # With a second device there are keys on their way, with their gradients and their four ids.
    held = [bytes_held(kind, own, width, np.float32, 1) for kind in ("local", "ring")]
    assert found[2] <= found[1] + held[1] - held[0] + 2 * 4 * 4 * own + small


@pytest.mark.parametrize(
    ("directions", "exchange"),
    [
        ("joint", "all_gather"),
        ("forward", "ring"),
        pytest.param("joint", "ring", marks=pytest.mark.slow),
        pytest.param("forward", "all_gather", marks=pytest.mark.slow),
    ],
)
def test_a_guide_sees_the_keys_of_all_devices(directions, exchange):
    config = ContrastiveConfig(directions=directions, guide=GuideConfig("any", margin=0.2))
    alone = on_mesh((1,), config, "all_gather")
    assert_same(on_mesh((2, 2), config, exchange), alone)
    assert (
        abs(
            alone[0][0]
            - on_mesh((1,), ContrastiveConfig(directions=directions), "all_gather")[0][0]
        )
        > 0.1
    )
