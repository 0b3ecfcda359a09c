"""Which tokens may be written, and what is read of those that were."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from simjax.errors import UsageError
from simjax.generate.sampling import SamplingConfig
from simjax.generate.writing import Drawing, Limits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_WIDE = r"[\u2e80-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef\U00020000-\U0003ffff]"
# Tokenizers part what is written without spaces, and put some between when they join it again.
_BETWEEN_WIDE = re.compile(rf"(?<={_WIDE}) | (?={_WIDE})")


class Spelling:
    """A tokenizer as texts are written with it.

    Attributes:
        start: The token that texts begin with.
        longest: Most tokens of a text that is written, its end included.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, vocabulary: int, text_length: int
    ) -> None:
        """Tell the tokens apart.

        Args:
            tokenizer: The tokenizer.
            vocabulary: Rows of the model's token table.
            text_length: Tokens of the longest text, special ones included.
        """
        self._tokenizer = tokenizer
        # Special tokens are no part of a text; nor are rows of the table that no token has.
        allowed = np.zeros(vocabulary, bool)
        allowed[list(tokenizer.get_vocab().values())] = True
        allowed[list(tokenizer.all_special_ids)] = False
        self._allowed = jnp.asarray(allowed)
        # What says nothing of a text: the unknown token among them.
        self._special = frozenset(tokenizer.all_special_ids)
        self._end = int(tokenizer.sep_token_id)
        self.start = int(tokenizer.cls_token_id)
        self.longest = text_length - 1

    def check(self, text: str, tokens: Sequence[int]) -> None:
        """Refuse a text of which nothing can be told from another's.

        Raises:
            UsageError: It is empty, or the tokenizer knows none of its words.
        """
        if not text.strip():
            raise UsageError("the text is empty")
        if self._special.issuperset(int(token) for token in tokens):
            raise UsageError(f"the model's vocabulary has none of the words of {text!r}")

    def drawing(self, sampling: SamplingConfig) -> Drawing:
        """How tokens are drawn.

        Raises:
            UsageError: `sampling.max_length` is more than the model was trained on.
        """
        most = self.longest if sampling.max_length is None else sampling.max_length
        if most > self.longest:
            raise UsageError(
                f"max_length is {most}: the model was trained on texts of at most {self.longest} "
                "tokens"
            )
        vocabulary = len(self._allowed)
        top_k = vocabulary if sampling.top_k is None else min(sampling.top_k, vocabulary)
        return Drawing(
            self._allowed,
            jnp.int32(self._end),
            jax.random.key(sampling.seed),
            Limits(float(sampling.temperature), top_k, float(sampling.top_p)),
            jnp.int32(most),
        )

    def read(self, tokens: Sequence[int]) -> tuple[str, bool]:
        """A text, and whether it came to its end; -1 is no token."""
        own = [token for token in tokens if token >= 0]
        finished = own[-1:] == [self._end]
        text = self._tokenizer.decode(own, skip_special_tokens=True)
        return _BETWEEN_WIDE.sub("", text).strip(), finished
