"""A fast tokenizer's engine: copies of it, and what decides its tokens.

RoFormer's tokenizer has a part that is written in Python, which splits Chinese text into words and
which an engine can neither copy nor write down. It stays what it is while the rest is copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.pre_tokenizers import PreTokenizer
    from transformers import PreTrainedTokenizerFast


@contextmanager
def serialisable(engine: Tokenizer) -> Iterator[PreTokenizer | None]:
    """An engine without its part in Python, for as long as the context lasts.

    Gives that part, None where there is none.
    """
    from tokenizers.pre_tokenizers import BertPreTokenizer

    splitter = engine.pre_tokenizer
    try:
        if splitter is not None:
            splitter.__getstate__()
    except Exception:  # what tokenizers raises of a part that it cannot write down
        engine.pre_tokenizer = BertPreTokenizer()
        try:
            yield splitter
        finally:
            engine.pre_tokenizer = splitter
    else:
        yield None


def copy_engine(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """A copy of a tokenizer's engine that neither pads nor cuts."""
    from tokenizers import Tokenizer

    with serialisable(tokenizer.backend_tokenizer) as splitter:
        engine = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    if splitter is not None:
        engine.pre_tokenizer = splitter
    engine.no_padding()
    engine.no_truncation()
    return engine


def written(engine: Tokenizer) -> str:
    """All that decides an engine's tokens; its splitter in Python by name and version."""
    with serialisable(engine) as splitter:
        text = engine.to_str()
    return text if splitter is None else f"{text}\nrjieba {version('rjieba')}"
