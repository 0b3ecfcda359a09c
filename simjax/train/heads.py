"""What is trained with the encoder and is no part of it: the head over tokens, and latents."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from simjax.errors import UsageError
from simjax.models import hf
from simjax.models.decoder import HEAD, LATENTS, Decoder
from simjax.models.decoder import read as read_decoder
from simjax.models.encoder import EncoderConfig
from simjax.models.latents import Latents, LatentsConfig
from simjax.models.lm_head import LanguageModelHead
from simjax.models.sentence_model import merge, split
from simjax.train.config import RunConfig


def make_heads(config: RunConfig, encoder: EncoderConfig) -> dict[str, nnx.Module]:
    """Heads that are trained with the encoder.

    They start from the pretrained folder's where it has them, at random otherwise. What writes
    texts starts from a decoder's head or, like what predicts masked tokens, from the one that the
    folder's masked tokens were predicted by. A decoder's head is no start for masked tokens: it
    says which token comes next.

    Raises:
        SimjaxError: Of the folder something is faulty.
        UsageError: It has latents of another shape.
    """
    objective, wanted = config.objective, config.model.latents
    writes = objective.seq2seq is not None or wanted is not None
    if objective.mlm is None and not writes:
        return {}
    # The encoder draws from the seed's own key, and an objective from the second.
    key = jax.random.key(config.seed)
    head = LanguageModelHead(encoder, rngs=nnx.Rngs(params=jax.random.fold_in(key, 1)))
    folder = None if config.model.pretrained is None else hf.resolve(config.model.pretrained)
    decoder = None if folder is None or not writes else read_decoder(folder, encoder)
    if decoder is not None:
        head = decoder.head
    elif folder is not None:
        head = _pretrained(folder, encoder, head)
    heads: dict[str, nnx.Module] = {HEAD: head}
    if wanted is not None:
        heads[LATENTS] = _latents(config, wanted, encoder, decoder, key)
    return heads


def _pretrained(folder: Path, encoder: EncoderConfig, head: LanguageModelHead) -> LanguageModelHead:
    params = hf.load_lm_head(folder, encoder)
    return head if params is None else merge(split(head)[0], jax.tree.map(jnp.asarray, params))


def _latents(
    config: RunConfig,
    wanted: LatentsConfig,
    encoder: EncoderConfig,
    decoder: Decoder | None,
    key: jax.Array,
) -> Latents:
    if decoder is None or decoder.latents is None:
        return Latents(wanted, encoder, rngs=nnx.Rngs(params=jax.random.fold_in(key, 3)))
    there = decoder.latents.config
    kappa = ("kappa",) if wanted.kind == "von_mises_fisher" else ()
    for name in ("kind", "layers", "size", *kappa):
        if getattr(there, name) != getattr(wanted, name):
            raise UsageError(
                f"model.latents.{name} is {getattr(wanted, name)} and that of "
                f"{config.model.pretrained} is {getattr(there, name)}: give the latter"
            )
    return decoder.latents
