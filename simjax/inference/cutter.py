"""Texts to tokens: where a text is cut, and a tokenizer's engine that cuts there."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from simjax.data.engine import copy_engine
from simjax.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def longest_text(asked: int | None, tokenizer: PreTrainedTokenizerFast, positions: int) -> int:
    """Tokens, special ones included, beyond which a text is cut.

    Args:
        asked: The length asked for; None takes what tokenizer and model allow.
        tokenizer: The tokenizer.
        positions: Positions of the model.

    Raises:
        UsageError: `asked` is more than the model has, or no more than the special tokens take.
    """
    if asked is None:
        # A tokenizer that does not know its model's length says 10^30.
        return min(positions, tokenizer.model_max_length)
    if asked > positions:
        raise UsageError(f"max_length {asked}: the model has {positions} positions")
    special = tokenizer.num_special_tokens_to_add()
    if asked <= special:
        raise UsageError(f"max_length {asked}: no room beside {special} special tokens")
    return asked


class Cutter:
    """Texts to tokens: a fast tokenizer's engine that cuts at a length and pads nothing."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, max_length: int) -> None:
        """Copy the engine, so that the tokenizer itself stays as it is.

        Args:
            tokenizer: A fast tokenizer.
            max_length: Tokens, special ones included, beyond which a text is cut.
        """
        self._engine = copy_engine(tokenizer)
        self._engine.enable_truncation(max_length, direction=tokenizer.truncation_side)

    def __call__(
        self, texts: Sequence[str]
    ) -> tuple[Int[np.ndarray, "total"], Int[np.ndarray, "n"]]:
        """The tokens of all texts, end to end, and how many each text has.

        A lone surrogate, which stands for no character, is read as U+FFFD.
        """
        try:
            found = self._engine.encode_batch_fast(list(texts))
        except (UnicodeEncodeError, TypeError):
            # Two surrogates may also be one character.
            whole = [text.encode("utf-16", "surrogatepass") for text in texts]
            found = self._engine.encode_batch_fast(
                [text.decode("utf-16", "replace") for text in whole]
            )
        ids = [entry.ids for entry in found]
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        return np.fromiter(chain.from_iterable(ids), np.int32, int(lengths.sum())), lengths
