"""Similar sentences: drawn from a model with a decoder, ranked by its own cosine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from simjax.data.identity import normalised
from simjax.errors import SimjaxError, UsageError
from simjax.generate.sampling import SamplingConfig
from simjax.generate.writing import Limits, write
from simjax.inference.cutter import Cutter
from simjax.models.sentence_model import split
from simjax.sentence_encoder import SentenceEncoder

_WIDE = r"[\u2e80-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef\U00020000-\U0003ffff]"
# Tokenizers part what is written without spaces, and put some between when they join it again.
_BETWEEN_WIDE = re.compile(rf"(?<={_WIDE}) | (?={_WIDE})")


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


class Paraphraser:
    """A model that writes sentences similar to a given one."""

    def __init__(self, encoder: SentenceEncoder) -> None:
        """Take the model apart.

        Raises:
            SimjaxError: It has no decoder.
        """
        if encoder.decoder is None:
            raise SimjaxError(
                "the model has no decoder to write with; one is trained with objective.seq2seq "
                "(configs/simbert_small.yaml)"
            )
        self.encoder = encoder
        self._decoder = encoder.decoder
        self._model = split(encoder.model)
        self._head = split(self._decoder.head)
        tokenizer = encoder.tokenizer
        self._cut = Cutter(tokenizer, self._decoder.text_length)
        # Special tokens are no part of a text; nor are rows of the table that no token has.
        allowed = np.zeros(encoder.model.config.vocab_size, bool)
        allowed[list(tokenizer.get_vocab().values())] = True
        allowed[list(tokenizer.all_special_ids)] = False
        self._allowed = jnp.asarray(allowed)
        self._end = int(tokenizer.sep_token_id)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, *, dtype: str = "float32") -> Paraphraser:
        """Load a model.

        Args:
            name_or_path: A folder that simjax exported, or a run folder.
            dtype: `float32` or `bfloat16`, the precision of the computation.

        Raises:
            SimjaxError: As of `SentenceEncoder.from_pretrained`, or it has no decoder.
        """
        encoder = SentenceEncoder.from_pretrained(name_or_path, dtype=dtype)
        try:
            return cls(encoder)
        except SimjaxError as error:
            raise SimjaxError(f"{name_or_path}: {error}") from error

    @property
    def longest(self) -> int:
        """Most tokens of a sentence that is written, its end included."""
        return self._decoder.text_length - 1

    def draws(self, text: str, sampling: SamplingConfig) -> list[tuple[str, bool]]:
        """Sentences as they were drawn, and whether each came to its end.

        Raises:
            UsageError: `sampling.max_length` is more than the model was trained on.
        """
        most = self.longest if sampling.max_length is None else sampling.max_length
        if most > self.longest:
            raise UsageError(
                f"max_length is {most}: the model was trained on texts of at most {self.longest} "
                "tokens"
            )
        ids, _ = self._cut([text])
        tokens = np.zeros(self._decoder.text_length, np.int32)
        tokens[: len(ids)] = ids
        vocabulary = len(self._allowed)
        top_k = vocabulary if sampling.top_k is None else min(sampling.top_k, vocabulary)
        written = write(
            self._model[0],
            self._head[0],
            self._model[1],
            self._head[1],
            tokens,
            np.int32(len(ids)),
            self._allowed,
            np.int32(self._end),
            jax.random.key(sampling.seed),
            Limits(float(sampling.temperature), top_k, float(sampling.top_p)),
            np.int32(most),
            count=sampling.count,
            room=self.longest,
        )
        return [self._read(row) for row in np.asarray(written).tolist()]

    def _read(self, tokens: Sequence[int]) -> tuple[str, bool]:
        own = [token for token in tokens if token >= 0]
        finished = own[-1:] == [self._end]
        text = self.encoder.tokenizer.decode(own, skip_special_tokens=True)
        return _BETWEEN_WIDE.sub("", text).strip(), finished

    def similar(self, text: str, sampling: SamplingConfig, *, rerank: bool = True) -> list[Similar]:
        """Sentences that differ from the given one and from each other.

        Args:
            text: The given one.
            sampling: How they are drawn. Fewer are left than are drawn where some are equal.
            rerank: The most similar first; otherwise as they were drawn.

        Raises:
            UsageError: The text is empty, or as of `draws`.
        """
        if not text.strip():
            raise UsageError("the text is empty")
        # A tokenizer may part and fold a text: what comes back of it is the same text, too.
        itself, _ = self._read([int(token) for token in self._cut([text])[0]])
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
