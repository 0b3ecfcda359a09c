"""Train a WordPiece tokenizer on the texts that a model is to be trained on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from simjax.errors import SimjaxError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""In the order of their ids, from 0."""


def train_wordpiece(
    texts: Iterable[str], vocab_size: int, *, lowercase: bool = True
) -> PreTrainedTokenizerFast:
    """Train an uncased (or cased) WordPiece tokenizer that works like BERT's.

    Args:
        texts: what to train on.
        vocab_size: tokens at most, the special ones and the alphabet included; little text gives
            fewer.
        lowercase: fold case and strip accents, as uncased BERT does.

    Returns:
        A fast tokenizer that adds [CLS] and [SEP], without padding or truncation of its own.

    Raises:
        SimjaxError: there is no text.
        UsageError: `vocab_size` does not hold the special tokens and one more.
    """
    if vocab_size <= len(SPECIAL_TOKENS):
        raise UsageError(
            f"a vocabulary of {vocab_size} tokens has no room for words: "
            f"{len(SPECIAL_TOKENS)} are special tokens"
        )
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from tokenizers.processors import TemplateProcessing
    from transformers import BertTokenizerFast

    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS), show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    vocabulary = backend.get_vocab()
    if len(vocabulary) <= len(SPECIAL_TOKENS):
        raise SimjaxError("there is no text to train a tokenizer on")
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return BertTokenizerFast(tokenizer_object=backend, do_lower_case=lowercase)
