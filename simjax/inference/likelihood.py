"""How likely a model finds a text behind another one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from simjax.data.packing import best_fit_decreasing
from simjax.data.paraphrases import joined_lengths, pack_pairs
from simjax.errors import SimjaxError
from simjax.inference.cutter import Cutter
from simjax.models.lm_head import token_losses
from simjax.models.sentence_model import GraphDef, merge, split
from simjax.objectives.seq2seq import predicted
from simjax.types import Block, Params

if TYPE_CHECKING:
    from simjax.sentence_encoder import SentenceEncoder

_ROWS, _ROW_LENGTH, _SHORTEST = 16, 128, 5
"""Rows computed at a time; tokens of one, if a pair has no more; tokens of the shortest pair."""


class Likelihood:
    """-log p of a text's tokens behind another text, by a model with a decoder."""

    def __init__(self, encoder: SentenceEncoder) -> None:
        """Take the model apart.

        Raises:
            SimjaxError: It has no decoder.
        """
        if encoder.decoder is None:
            raise SimjaxError(
                "the model has no decoder; one is trained with objective.seq2seq, and lies in the "
                "run's export"
            )
        self._decoder = encoder.decoder
        self._model = split(encoder.model)
        self._head = split(self._decoder.head)
        self._cut = Cutter(encoder.tokenizer, self._decoder.text_length)
        self._row_length = max(_ROW_LENGTH, self._decoder.max_tokens)

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
        placed = best_fit_decreasing(joined_lengths(lengths)[:, 0], self._row_length)
        found = np.zeros((2, len(pairs)))
        most = _ROWS * self._row_length // _SHORTEST
        for first_row in range(0, placed.rows, _ROWS):
            here = np.flatnonzero((placed.row >= first_row) & (placed.row < first_row + _ROWS))
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
                rows=_ROWS,
                row_length=self._row_length,
            )
            sums = _sums(self._model[0], self._head[0], self._model[1], self._head[1], block)
            found[:, here] = np.asarray(sums)[:, : len(here)]
        return found[0], found[1].astype(np.int64)


@partial(jax.jit, static_argnums=(0, 1))
def _sums(
    graphdef: GraphDef, head: GraphDef, params: Params, head_params: Params, block: Block
) -> Float[jax.Array, "2 T"]:
    """Of each text of a block, -log p of its second segment, and the number of tokens there."""
    model = merge(graphdef, params)
    states = model.token_states(block)
    one = jax.tree.map(lambda array: array[0], block)
    where, targets = predicted(one, room=one.tokens.size)
    table = model.encoder.embeddings.word.embedding[...]
    losses, _ = token_losses(merge(head, head_params), table, states, where[None], targets[None])
    real = targets >= 0
    text = jnp.where(real, jnp.take(one.text.reshape(-1), where, mode="clip"), -1)
    count = one.first.shape[0]
    counted = jnp.stack([jnp.where(real, losses[0], 0.0), real.astype(jnp.float32)], axis=1)
    bucket = jnp.where(real, text, count)
    return jax.ops.segment_sum(counted, bucket, count + 1)[:count].T
