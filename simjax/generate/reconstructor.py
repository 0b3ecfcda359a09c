"""Texts written from latents: a text's own, some of nobody's, or those between two texts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from simjax.errors import SimjaxError, UsageError
from simjax.generate.pretrained import Writer
from simjax.generate.sampling import SamplingConfig
from simjax.generate.spelling import Spelling
from simjax.generate.writing import write_from_latents
from simjax.inference.cutter import Cutter
from simjax.models import latents as latent_passes
from simjax.models.sentence_model import GraphDef, merge, split
from simjax.sentence_encoder import SentenceEncoder
from simjax.types import Block, Params


@dataclass(frozen=True)
class Written:
    """A text that was written.

    Attributes:
        text: The text.
        finished: Whether it came to its end, or was cut off.
    """

    text: str
    finished: bool


class Reconstructor(Writer):
    """A model that writes texts from latents (UniVAE)."""

    def __init__(self, encoder: SentenceEncoder) -> None:
        """Take the model apart.

        Raises:
            SimjaxError: It has no latents.
        """
        decoder = encoder.decoder
        if decoder is None or decoder.latents is None:
            raise SimjaxError(
                "the model has no latents to write from; objective.name vae trains them "
                "(configs/univae_small.yaml)"
            )
        self.config = decoder.latents.config
        """Kind, number and size of the latents."""
        parts = [split(part) for part in (encoder.model, decoder.head, decoder.latents)]
        self._graphs = tuple(graph for graph, _ in parts)
        self._params = tuple(params for _, params in parts)
        self._length = decoder.text_length
        self._cut = Cutter(encoder.tokenizer, self._length)
        vocabulary = encoder.model.config.vocab_size
        self._spelling = Spelling(encoder.tokenizer, vocabulary, self._length)

    def latents(self, text: str) -> Float[np.ndarray, "S Z"]:
        """The means of a text's latents, the lowest layer's first.

        Raises:
            UsageError: As of `Spelling.check`.
        """
        ids, _ = self._cut([text])
        self._spelling.check(text, ids.tolist())
        tokens = np.zeros((1, 1, self._length), np.int32)
        tokens[0, 0, : len(ids)] = ids
        places = np.arange(self._length, dtype=np.int32)
        block = Block(
            tokens,
            np.broadcast_to(places, tokens.shape),
            np.where(places < len(ids), 0, -1).astype(np.int32).reshape(tokens.shape),
            np.zeros((1, 1), np.int32),
        )
        model, _, latents = self._graphs
        found = _means(model, latents, self._params[0], self._params[2], block)
        return np.asarray(found)[:, 0, 0]

    def prior(self, count: int, seed: int = 0) -> Float[np.ndarray, "N S Z"]:
        """Latents of texts that there are not, drawn from their prior."""
        # Tokens are drawn from the seed's own key.
        key = jax.random.fold_in(jax.random.key(seed), 2**32 - 1)
        return np.moveaxis(np.asarray(latent_passes.prior(self.config, key, count)), 1, 0)

    def between(
        self,
        one: Float[np.ndarray, "S Z"],
        other: Float[np.ndarray, "S Z"],
        share: float,
        layers: Collection[int] | None = None,
    ) -> Float[np.ndarray, "S Z"]:
        """Latents on the way from one text to another.

        Args:
            one: Latents of the one.
            other: Of the other.
            share: How far on the way: 0 is the one's, 1 the other's.
            layers: Which latents go there, counted from 1, the lowest; the others stay the one's.
                None is all.

        Raises:
            UsageError: There is no such layer.
        """
        count = self.config.layers
        wanted = range(1, count + 1) if layers is None else layers
        for layer in wanted:
            if not 1 <= layer <= count:
                raise UsageError(f"latent_layers has {layer}: the model has layers 1 to {count}")
        shares = np.asarray([share if n + 1 in wanted else 0.0 for n in range(count)], np.float32)
        ends = jnp.asarray(one, jnp.float32), jnp.asarray(other, jnp.float32)
        found = latent_passes.interpolated(self.config, ends[0], ends[1], jnp.asarray(shares))
        return np.asarray(found)

    def write(
        self, latents: Float[np.ndarray, "N S Z"], sampling: SamplingConfig
    ) -> list[list[Written]]:
        """Texts drawn from latents: `sampling.count` for each of `N`.

        Raises:
            UsageError: They have another number or size than the model's, or
                `sampling.max_length` is more than the model was trained on.
        """
        shape = (self.config.layers, self.config.size)
        if latents.ndim != 3 or latents.shape[1:] != shape:
            raise UsageError(
                f"latents of shape {list(latents.shape)}: the model has {shape[0]} of {shape[1]} "
                f"dimensions, so give [N, {shape[0]}, {shape[1]}]"
            )
        written = write_from_latents(
            self._graphs,
            self._params,
            jnp.moveaxis(jnp.asarray(latents, jnp.float32), 1, 0),
            np.int32(self._spelling.start),
            self._spelling.drawing(sampling),
            count=sampling.count,
            room=self._spelling.longest,
        )
        found = [Written(*self._spelling.read(row)) for row in np.asarray(written).tolist()]
        return [found[n : n + sampling.count] for n in range(0, len(found), sampling.count)]

    def reconstruct(self, texts: Sequence[str], sampling: SamplingConfig) -> list[list[Written]]:
        """Texts drawn from the means of each text's latents.

        Raises:
            UsageError: As of `Spelling.check` or `write`.
        """
        return self.write(np.stack([self.latents(text) for text in texts]), sampling)


@partial(jax.jit, static_argnums=(0, 1))
def _means(
    model: GraphDef, latents: GraphDef, params: Params, latent_params: Params, block: Block
) -> Float[jax.Array, "S 1 1 Z"]:
    encoder = merge(model, params).encoder
    own = merge(latents, latent_params)
    return latent_passes.pass_through(encoder, own, block, latent_passes.means).latents
