"""The loss of a text that is written again, against its definition in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax.errors import UsageError
from simjax.objectives.config import MaskedLmConfig, MatryoshkaConfig, Seq2SeqConfig, VaeConfig
from simjax.objectives.vae import Vae, kl_weight
from simjax.types import Batch, Block

pytestmark = pytest.mark.usefixtures("strict_promotion")

# Two texts of 4 and 2 tokens, each twice, in a row of 16.
SEGMENT = np.asarray([0] * 4 + [1] * 4 + [0] * 2 + [1] * 2 + [0] * 4)
POSITIONS = np.asarray([*range(4), *range(4), *range(2), *range(2), 0, 0, 0, 0])
TOKENS = np.asarray([2, 7, 8, 3] * 2 + [2, 3] * 2 + [9] * 4)
TEXT = np.asarray([0] * 8 + [1] * 4 + [-1] * 4)


def batch():
    fields = [x.astype(np.int32)[None, None] for x in (TOKENS, POSITIONS, TEXT)]
    block = Block(*fields, np.asarray([[0, 8]], np.int32), SEGMENT.astype(np.int32)[None, None])
    return Batch(block, np.zeros((1, 2, 1)), np.zeros((1, 2)), np.zeros(1, np.int32))


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("step", [0, 4, 9, 30])
def test_sums_are_those_of_the_bound(constant, step):
    random = np.random.default_rng(0)
    losses, divergence = random.random((1, 8)), random.random((3, 1, 2))
    asked = {}

    def reconstruct(params, batch, where, targets, latent_key, dropout_key, gather_layer):
        asked.update(where=np.asarray(where), targets=np.asarray(targets), dropout=dropout_key)
        asked["keys"] = jax.random.key_data(latent_key)
        right = jnp.asarray(losses < 0.5)
        return jnp.asarray(losses, jnp.float32), right, jnp.asarray(divergence, jnp.float32)

    config = VaeConfig(kl_weight=0.7, kl_warmup=10)
    found = Vae(config, reconstruct, False, constant).sums(
        {}, batch(), jax.random.key(0), None, step
    )
    # All tokens behind but the first of each text, from the places before them.
    assert asked["where"][0][:4].tolist() == [4, 5, 6, 10]
    assert asked["targets"][0].tolist() == [7, 8, 3, 3, -1, -1, -1, -1]
    assert asked["dropout"] is None
    share = 0.0 if constant else 0.7 * min(1.0, (step + 1) / 10)
    total, kl = losses[0, :4].sum(), divergence.sum()
    np.testing.assert_allclose(found.loss, total + share * kl, rtol=1e-6)
    assert float(found.weight) == 4
    np.testing.assert_allclose(found.metrics["reconstruction"], total, rtol=1e-6)
    np.testing.assert_allclose(found.metrics["kl"], kl, rtol=1e-6)
    assert float(found.metrics["accuracy"]) == (losses[0, :4] < 0.5).sum()


def test_without_a_warmup_the_weight_is_whole_from_the_start():
    assert [float(kl_weight(VaeConfig(kl_weight=2.0), step)) for step in (0, 5)] == [2.0, 2.0]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kl_weight": -1.0}, r"objective\.kl_weight is -1\.0: give 0 or more"),
        ({"kl_weight": float("inf")}, r"objective\.kl_weight is inf"),
        ({"kl_warmup": -1}, r"objective\.kl_warmup is -1"),
        ({"mlm": MaskedLmConfig()}, r"objective\.mlm does not go with objective\.name vae"),
        ({"seq2seq": Seq2SeqConfig()}, r"objective\.seq2seq does not go with"),
        ({"matryoshka": MatryoshkaConfig((4,))}, r"objective\.matryoshka does not go with"),
    ],
)
def test_faulty_settings_are_refused(settings, says):
    with pytest.raises(UsageError, match=says):
        VaeConfig(**settings)
