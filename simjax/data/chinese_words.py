"""The words of Chinese texts, whose tokens are single characters.

Elsewhere the tokens tell: those that go on a word begin with `##`. Words are those of jieba, as
for RoFormer-Sim (github.com/ZhuiyiTechnology/roformer-sim).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool

from simjax.errors import SimjaxError
from simjax.types import NO_TEXT, Block

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
"""Of Unicode, first and last of each block."""
_CHINESE = 1000
"""A vocabulary with fewer of them was not made for Chinese: BERT's English one has 244."""


class ChineseWords:
    """Finds words in packed tokens.

    Attributes:
        characters: Token ids that are one ideograph each, and which.
    """

    def __init__(
        self, characters: Mapping[int, str], size: int, cut: Callable[[str, bool], list[str]]
    ) -> None:
        """Takes note of the vocabulary.

        Args:
            characters: See there.
            size: Tokens of the vocabulary.
            cut: Cuts a text into words, with words that no dictionary has or without.
        """
        self.characters = dict(characters)
        self._is_one = np.zeros(size, bool)
        self._is_one[list(self.characters)] = True
        self._cut = cut

    def goes_on(self, block: Block) -> Bool[np.ndarray, "*K R L"]:
        """Whether a token goes on the word of the token before it.

        Characters that stand side by side in a text are taken for a piece of it.
        """
        tokens, text = (np.asarray(x) for x in (block.tokens, block.text))
        one = self._is_one[tokens] & (text != NO_TEXT)
        beside = one[..., 1:] & one[..., :-1] & (text[..., 1:] == text[..., :-1])
        found = np.zeros(tokens.shape, bool)
        found[..., 1:] = beside
        # Rows one behind the other; the first token of each goes on none.
        flat, joined = tokens.reshape(-1), found.reshape(-1)
        inner = np.flatnonzero(joined)
        firsts = inner[~joined[inner - 1]] - 1
        lasts = inner[np.diff(inner, append=-1) != 1]
        for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
            place = first
            piece = "".join(self.characters[n] for n in flat[first : last + 1].tolist())
            for word in self._cut(piece, True):
                joined[place] = False
                place += len(word)
        return found


def make_chinese_words(tokenizer: PreTrainedTokenizerFast) -> ChineseWords | None:
    """What finds them, None where the vocabulary is not one of Chinese.

    Raises:
        SimjaxError: The library rjieba is needed and missing.
    """
    vocabulary = tokenizer.get_vocab()
    characters = {number: token for token, number in vocabulary.items() if _is_ideograph(token)}
    if len(characters) < _CHINESE:
        return None
    try:
        import rjieba
    except ImportError:
        raise SimjaxError(
            "objective.seq2seq.corrupted masks words, and those of Chinese are found by the "
            "library rjieba, which is not installed: pip install 'simjax[chinese]'"
        ) from None
    return ChineseWords(characters, max(vocabulary.values()) + 1, rjieba.cut)


def _is_ideograph(token: str) -> bool:
    return len(token) == 1 and any(low <= ord(token) <= high for low, high in _IDEOGRAPHS)
