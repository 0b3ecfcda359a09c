"""The head over hidden states that says which token stands where, its table the embeddings'."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from simjax import mesh as meshes
from simjax.models.config import Activation, EncoderConfig
from simjax.models.dense import Dense, LayerNorm, wide_product
from simjax.models.encoder import ACTIVATIONS
from simjax.models.families import Family

_GELU: frozenset[Family] = frozenset(
    {"roberta", "xlm-roberta", "camembert", "mpnet", "electra", "modernbert"}
)


def activation(config: EncoderConfig) -> Activation:
    """The head's: some families have one of their own, whatever the layers' is."""
    return "gelu" if config.family in _GELU else config.activation


class LanguageModelHead(nnx.Module):
    """Dense layer, activation and norm, then products with the token table (Devlin et al. 2019)."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        own, width = config.architecture, config.embedding_width
        self.dense = Dense(
            config.hidden_size,
            width,
            stddev=config.initializer_range,
            rngs=rngs,
            use_bias=own.bias,
        )
        self.norm = LayerNorm(width, epsilon=config.layer_norm_eps, use_bias=own.norm_bias)
        self.bias = nnx.Param(jnp.zeros((config.vocab_size,), jnp.float32))
        self.config = config

    def __call__(
        self, states: Float[Array, "M D"], table: Float[Array, "V W"]
    ) -> Float[Array, "M V"]:
        """Logits of every token, summed in float32; `table` has the encoder's token embeddings."""
        dtype = states.dtype
        x = ACTIVATIONS[activation(self.config)](self.dense(states))
        x = self.norm(x.astype(jnp.float32), dtype)
        if dtype == jnp.float32:
            return x @ table.T + self.bias[...]
        return wide_product(x, table.T, meshes.vary_like(self.bias[...], x))


def token_losses(
    head: LanguageModelHead,
    table: Float[Array, "V W"],
    states: Float[Array, "K P D"],
    where: Int[Array, "K M"],
    targets: Int[Array, "K M"],
) -> tuple[Float[Array, "K M"], Bool[Array, "K M"]]:
    """-log p of some tokens of each block, and whether each is the likeliest one.

    Logits are made for one block at a time and anew in the backward pass, since those of a
    micro-batch may be larger than everything else that it keeps.

    Args:
        head: The head.
        table: The encoder's token embeddings.
        states: Hidden states of each block's places.
        where: Places of a block; any number beyond them reads the last.
        targets: The tokens that stand there.
    """
    graphdef, params = nnx.split(head)

    @jax.checkpoint
    def of_block(
        params: nnx.State, table: Array, states: Array, where: Array, targets: Array
    ) -> tuple[Array, Array]:
        picked = jnp.take(states, where, axis=0, mode="clip")
        logits = nnx.merge(graphdef, params)(picked, table)
        own = jnp.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
        return jax.nn.logsumexp(logits, axis=1) - own, logits.argmax(axis=1) == targets

    return jax.lax.map(lambda block: of_block(params, table, *block), (states, where, targets))
