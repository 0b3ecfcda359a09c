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
        texts: what to train on; gone through twice, and not held in memory.
        vocab_size: tokens at most, the special ones and the alphabet included; little text gives
            fewer.
        lowercase: fold case and strip accents, as uncased BERT does.

    Returns:
        A fast tokenizer that adds [CLS] and [SEP], without padding or truncation of its own.

    Raises:
        SimjaxError: there is no text.
        UsageError: `vocab_size` does not hold the special tokens and the letters.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from tokenizers.processors import TemplateProcessing
    from transformers import BertTokenizerFast

    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    splitter = pre_tokenizers.BertPreTokenizer()
    inside: set[str] = set()
    for text in texts:
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)):
            inside.update(word[1:])
    # The trainer numbers the pieces "##x" by the order of a hash map and breaks ties by number,
    # so that each run gives another vocabulary. As special tokens they are numbered beforehand.
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL_TOKENS, *(f"##{letter}" for letter in sorted(inside))],
        show_progress=False,
    )
    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.normalizer = normalizer
    trained.pre_tokenizer = splitter
    trained.train_from_iterator(texts, trainer)
    vocabulary = trained.get_vocab()
    if len(vocabulary) <= len(SPECIAL_TOKENS):
        raise SimjaxError(
            "there is no text to train a tokenizer on; data.source.path names what is read"
        )
    if len(vocabulary) > vocab_size:
        raise UsageError(
            f"a vocabulary of {vocab_size} tokens does not hold the letters of the texts and "
            f"the special tokens: {len(vocabulary)} are needed at least"
        )

    # The model alone is taken over: for it those pieces are like all others.
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizer
    backend.pre_tokenizer = splitter
    backend.decoder = decoders.WordPiece(prefix="##")
    backend.add_special_tokens(list(SPECIAL_TOKENS))
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return BertTokenizerFast(tokenizer_object=backend, do_lower_case=lowercase)
