"""Random Hugging Face folders, small enough to be made in every test."""

from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizerFast,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

WIDTH = 32
SENTENCES = [
    "The cat sits on the mat.",
    "a man runs in the park",
    "",
    "fish",
    "the dog, the cat and the woman eat fish in the park while the man runs " * 5,
    "unknown wörds 猫",
    "A woman and a man",
    "fish",
]


def bert_tokenizer() -> BertTokenizerFast:
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["the", "cat", "man", "woman", "fish", "park", "sit", "run", ",", "."]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *letters]
    tokens += [f"##{letter}" for letter in letters]
    return BertTokenizerFast(vocab={token: i for i, token in enumerate(tokens)})


def roberta_tokenizer() -> RobertaTokenizerFast:
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *bytes_to_unicode().values()]
    return RobertaTokenizerFast(vocab={token: i for i, token in enumerate(tokens)}, merges=[])


def write_folder(folder: Path, family: str, layers: int = 3) -> Path:
    """A transformers folder with random weights, large enough that errors would show."""
    torch.manual_seed(0)
    shape = {
        "hidden_size": WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "initializer_range": 0.2,
    }
    if family == "bert":
        tokenizer = bert_tokenizer()
        model = BertModel(
            BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **shape)
        )
    else:
        tokenizer = roberta_tokenizer()
        model = RobertaModel(
            RobertaConfig(
                vocab_size=len(tokenizer),
                max_position_embeddings=66,
                type_vocab_size=1,
                pad_token_id=1,
                **shape,
            )
        )
    # Biases are zero and scales one at the start, which would hide their being mixed up.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
