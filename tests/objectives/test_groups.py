"""Negatives of an example's own group alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax.errors import UsageError
from simjax.objectives.config import ContrastiveConfig, GuideConfig
from simjax.objectives.contrastive import contrastive_loss
from simjax.objectives.groups import over_groups
from simjax.objectives.uniformity import Views
from tests.objectives.test_contrastive import Definition, embeddings, shared_ids
from tests.objectives.test_guide import Guided, guide_vectors
from tests.objectives.test_sharded import assert_same, on_mesh

pytestmark = pytest.mark.usefixtures("strict_promotion")

EXAMPLES, GROUP = 12, 4


class Grouped(Definition):
    """Texts of different groups are no negatives of each other."""

    def negative(self, a, b):
        return a[0] // GROUP == b[0] // GROUP and super().negative(a, b)


class GuidedGroups(Grouped, Guided):
    pass


@pytest.mark.sampled(5)
@pytest.mark.parametrize("directions", ["forward", "symmetric", "joint"])
@pytest.mark.parametrize("loss", ["infonce", "dcl"])
@pytest.mark.parametrize("guide", [None, GuideConfig("m", 0.1)], ids=["", "guided"])
def test_the_loss_is_its_definition_in_float64(directions, loss, guide):
    check(directions, loss, guide, views=4)


def test_pairs_have_groups_as_well():
    check("symmetric", "infonce", None, views=2)


def check(directions, loss, guide, views):
    x, ids = embeddings(n=EXAMPLES, views=views), shared_ids(EXAMPLES, views)
    x = np.where((ids == -1)[..., None], 0, x).astype(np.float32)
    seen = guide_vectors(EXAMPLES, views)
    positives = min(2, views - 1)
    config = ContrastiveConfig(
        loss=loss, directions=directions, guide=guide, negative_group=GROUP, hard_negative_weight=2
    )
    labels = np.full(EXAMPLES, -1, np.int32)

    @jax.jit
    def run(x):
        return contrastive_loss(
            *(x, jnp.asarray(ids), jnp.asarray(labels), jnp.arange(EXAMPLES)),
            *(1 / config.temperature, config, Views(positives, False, GROUP)),
            guide=jnp.asarray(seen) if guide else None,
        )[0]

    safe = np.where((ids == -1)[..., None], 1.0, x)
    if guide:
        stated = GuidedGroups(safe, seen, config, ids, positives).loss()
    else:
        stated = Grouped(safe, config, ids, labels, positives).loss()
    np.testing.assert_allclose(float(run(jnp.asarray(x))), stated, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("directions", ["forward", "joint"])
def test_groups_on_several_devices_are_those_of_one(directions):
    config = ContrastiveConfig(directions=directions, negative_group=8)
    assert_same(on_mesh((2, 2), config, "all_gather"), on_mesh((1,), config, "all_gather"))


def test_what_comes_of_groups_is_put_together_view_by_view():
    x = jnp.arange(12.0)

    def run(part):
        return part, jnp.concatenate([part, 100 + part]), part.sum()

    whole = run(x)
    for found, expected in zip(over_groups(run, 3, x), whole, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_an_empty_group_is_refused():
    with pytest.raises(UsageError, match=r"objective\.negative_group is 0"):
        ContrastiveConfig(negative_group=0)
