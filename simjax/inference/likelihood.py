"""How likely a model finds a text behind another one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from simjax.data.packing import best_fit_decreasing
from simjax.data.paraphrases import pack_pairs, pair_lengths
from simjax.errors import SimjaxError
from simjax.inference.cutter import Cutter
from simjax.models import latents as latent_passes
from simjax.models.decoder import HEAD, LATENTS
from simjax.models.lm_head import token_losses
from simjax.models.sentence_model import GraphDef, merge, split
from simjax.objectives.seq2seq import predicted
from simjax.types import Block, Params

if TYPE_CHECKING:
    from simjax.sentence_encoder import SentenceEncoder

_ROW_LENGTH = 128
"""Tokens of a row, if no pair has more."""
_PLACES, _PREDICTED = 2048, 512
"""Places computed at a time, and tokens that there are logits of: each has the whole vocabulary."""


class Likelihood:
    """-log p of a text's tokens behind another text, by a model with a decoder.

    A decoder with latents knows of the text in front their means alone.
    """

    def __init__(self, encoder: SentenceEncoder) -> None:
        """Take the model apart.

        Raises:
            SimjaxError: It has no decoder.
        """
        if encoder.decoder is None:
            raise SimjaxError(
                "the model has no decoder; one is trained with objective.seq2seq or "
                "objective.name vae, and lies in the run's export"
            )
        decoder = encoder.decoder
        parts: dict[str, Any] = {
            "model": encoder.model,
            HEAD: decoder.head,
            LATENTS: decoder.latents,
        }
        taken = {name: split(part) for name, part in parts.items() if part is not None}
        self._graphs = tuple((name, graph) for name, (graph, _) in taken.items())
        self._params = {name: params for name, (_, params) in taken.items()}
        self._cut = Cutter(encoder.tokenizer, decoder.text_length)
        self._row_length = max(_ROW_LENGTH, decoder.max_tokens)
        self._whole = decoder.latents is not None

    def __call__(
        self, pairs: Sequence[tuple[str, str]]
    ) -> tuple[Float[np.ndarray, "N"], Int[np.ndarray, "N"]]:
        """For each pair, -log p of the second text behind the first, and how many tokens it has.

        Texts are cut as in training; the token that ends the second one counts.
        """
        number: dict[str, int] = {}
        both = np.asarray(
            [[number.setdefault(text, len(number)) for text in pair] for pair in pairs]
        )
        tokens, lengths = self._cut(list(number))
        starts = (np.cumsum(lengths) - lengths)[both]
        lengths = lengths[both]
        placed = best_fit_decreasing(pair_lengths(lengths, whole=self._whole), self._row_length)
        found = np.zeros((2, len(pairs)))
        rows = max(1, _PLACES // self._row_length)
        # No pair is shorter than two texts of special tokens alone.
        shortest = int(pair_lengths(np.asarray([2, 2]), whole=self._whole))
        most = rows * (self._row_length // shortest)
        for first_row in range(0, placed.rows, rows):
            here = np.flatnonzero((placed.row >= first_row) & (placed.row < first_row + rows))
            plan = np.zeros((6, 1, most), np.int64)
            plan[0:2, 0, : len(here)] = starts[here].T
            plan[2:4, 0, : len(here)] = lengths[here].T
            plan[4, 0, : len(here)] = placed.row[here] - first_row
            plan[5, 0, : len(here)] = placed.column[here]
            block = pack_pairs(
                tokens,
                np.moveaxis(plan[0:2], 0, -1),
                np.moveaxis(plan[2:4], 0, -1),
                *plan[4:],
                rows=rows,
                row_length=self._row_length,
                whole=self._whole,
            )
            sums = _sums(self._graphs, self._params, block)
            found[:, here] = np.asarray(sums)[:, : len(here)]
        return found[0], found[1].astype(np.int64)


@partial(jax.jit, static_argnums=0)
def _sums(
    graphs: tuple[tuple[str, GraphDef], ...], params: dict[str, Params], block: Block
) -> Float[jax.Array, "2 T"]:
    """Of each text of a block, -log p of its second segment, and the number of tokens there."""
    parts = {name: merge(graph, params[name]) for name, graph in graphs}
    model = parts["model"]
    if LATENTS in parts:
        passed = latent_passes.pass_through(
            model.encoder, parts[LATENTS], block, latent_passes.means
        )
        states = passed.states[0]
    else:
        states = model.token_states(block)[0]
    one = jax.tree.map(lambda array: array[0], block)
    size = one.tokens.size
    where, targets = predicted(one, room=-(-size // _PREDICTED) * _PREDICTED)
    picked = jnp.take(states, where, axis=0, mode="clip")
    # As if they were places of blocks of their own, whose logits are made one after the other.
    picked = picked.reshape(-1, _PREDICTED, states.shape[-1])
    places = jnp.broadcast_to(jnp.arange(_PREDICTED), picked.shape[:2])
    table = model.encoder.embeddings.word.embedding[...]
    parted = targets.reshape(places.shape)
    losses, _ = token_losses(parts[HEAD], table, picked, places, parted)
    real = targets >= 0
    text = jnp.where(real, jnp.take(one.text.reshape(-1), where, mode="clip"), -1)
    count = one.first.shape[0]
    counted = jnp.stack([jnp.where(real, losses.ravel(), 0.0), real.astype(jnp.float32)], axis=1)
    bucket = jnp.where(real, text, count)
    return jax.ops.segment_sum(counted, bucket, count + 1)[:count].T
