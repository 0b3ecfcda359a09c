"""A random model that writes, small enough to be made in every test."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from simjax.data.tokenizer import train_wordpiece
from simjax.models.decoder import Decoder
from simjax.models.encoder import EncoderConfig
from simjax.models.families import Family
from simjax.models.latents import Latents, LatentsConfig
from simjax.models.lm_head import LanguageModelHead
from simjax.models.sentence_model import SentenceModel, merge, split
from simjax.sentence_encoder import SentenceEncoder

TEXTS = ("the cat sits, the man runs in the park", "a woman and a man eat fish", "a dog")
TEXT_LENGTH = 11
MAX_TOKENS = 21
"""Of two texts one behind the other, which share a token."""
COUNT = 20
"""Texts drawn at a time in all tests, which then share a program."""


@cache
def writer(
    family: Family = "bert", seed: int = 0, latents: LatentsConfig | None = None
) -> SentenceEncoder:
    """Large random parameters, so that distributions are far from uniform."""
    tokenizer = train_wordpiece(TEXTS, 100)
    shape = EncoderConfig(
        family=family,
        vocab_size=len(tokenizer),
        hidden_size=24,
        num_layers=2 if latents is None else 4,
        num_heads=2,
        intermediate_size=40,
        max_positions=32,
        embedding_size=16 if family in ("albert", "electra") else None,
    )

    def shaken(module: nnx.Module) -> nnx.Module:
        graphdef, params = split(module)
        random = np.random.default_rng(seed)
        return merge(
            graphdef,
            jax.tree.map(
                lambda p: jnp.asarray(p + 0.3 * random.normal(size=p.shape), jnp.float32), params
            ),
        )

    model = shaken(SentenceModel(shape, "cls_linear", rngs=nnx.Rngs(seed)))
    head = shaken(LanguageModelHead(shape, rngs=nnx.Rngs(seed + 1)))
    own = None
    if latents is not None:
        own = shaken(Latents(latents, shape, rngs=nnx.Rngs(seed + 2)))
    decoder = Decoder(head, TEXT_LENGTH, own)
    return SentenceEncoder(model, tokenizer, max_length=TEXT_LENGTH, decoder=decoder)
