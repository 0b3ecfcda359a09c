"""Similar sentences: drawn from a model with a decoder, ranked by its own cosine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simjax.data.identity import normalised
from simjax.errors import SimjaxError
from simjax.generate.pretrained import Writer
from simjax.generate.sampling import SamplingConfig
from simjax.generate.spelling import Spelling
from simjax.generate.writing import write
from simjax.inference.cutter import Cutter
from simjax.models.sentence_model import split
from simjax.sentence_encoder import SentenceEncoder


@dataclass(frozen=True)
class Similar:
    """A sentence that was written.

    Attributes:
        text: The sentence.
        score: Cosine of its embedding and the given sentence's.
        finished: Whether it came to its end, or was cut off.
    """

    text: str
    score: float
    finished: bool


class Paraphraser(Writer):
    """A model that writes sentences similar to a given one."""

    def __init__(self, encoder: SentenceEncoder) -> None:
        """Take the model apart.

        Raises:
            SimjaxError: It has no decoder, or one for reconstructions.
        """
        if encoder.decoder is None:
            raise SimjaxError(
                "the model has no decoder to write with; one is trained with objective.seq2seq "
                "(configs/simbert_small.yaml)"
            )
        if encoder.decoder.latents is not None:
            raise SimjaxError("the model writes a text again from its latents, and no paraphrases")
        self.encoder = encoder
        self._decoder = encoder.decoder
        self._model = split(encoder.model)
        self._head = split(self._decoder.head)
        tokenizer = encoder.tokenizer
        self._cut = Cutter(tokenizer, self._decoder.text_length)
        vocabulary = encoder.model.config.vocab_size
        self._spelling = Spelling(tokenizer, vocabulary, self._decoder.text_length)

    @property
    def longest(self) -> int:
        """Most tokens of a sentence that is written, its end included."""
        return self._spelling.longest

    def draws(self, text: str, sampling: SamplingConfig) -> list[tuple[str, bool]]:
        """Sentences as they were drawn, and whether each came to its end.

        Raises:
            UsageError: `sampling.max_length` is more than the model was trained on.
        """
        ids, _ = self._cut([text])
        tokens = np.zeros(self._decoder.text_length, np.int32)
        tokens[: len(ids)] = ids
        written = write(
            self._model[0],
            self._head[0],
            self._model[1],
            self._head[1],
            tokens,
            np.int32(len(ids)),
            self._spelling.drawing(sampling),
            count=sampling.count,
            room=self.longest,
        )
        return [self._spelling.read(row) for row in np.asarray(written).tolist()]

    def similar(self, text: str, sampling: SamplingConfig, *, rerank: bool = True) -> list[Similar]:
        """Sentences that differ from the given one and from each other.

        Args:
            text: The given one.
            sampling: How they are drawn. Fewer are left than are drawn where some are equal.
            rerank: The most similar first; otherwise as they were drawn.

        Raises:
            UsageError: As of `Spelling.check` or `draws`.
        """
        tokens = [int(token) for token in self._cut([text])[0]]
        self._spelling.check(text, tokens)
        # A tokenizer may part and fold a text: what comes back of it is the same text, too.
        itself, _ = self._spelling.read(tokens)
        seen = {normalised(text), normalised(itself)}
        kept: list[tuple[str, bool]] = []
        for drawn, finished in self.draws(text, sampling):
            form = normalised(drawn)
            if form and form not in seen:
                seen.add(form)
                kept.append((drawn, finished))
        if not kept:
            return []
        scores = self.encoder.similarity(text, [drawn for drawn, _ in kept])[0]
        found = [
            Similar(drawn, float(score), finished)
            for (drawn, finished), score in zip(kept, scores, strict=True)
        ]
        return sorted(found, key=lambda one: -one.score) if rerank else found
