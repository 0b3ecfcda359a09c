"""Tokenizers from folders, the hub or a plain vocabulary, and whether they fit the weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from simjax.errors import SimjaxError
from simjax.models.encoder import EncoderConfig
from simjax.models.hf import resolve
from simjax.models.model_files import VOCABULARY_BYTES, check_file
from simjax.models.modules_json import describe
from simjax.models.tensor_files import read_json_object

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, RoFormerTokenizer

# Any one of these is a vocabulary; without one transformers makes up a five-token tokenizer.
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model")
_OPENED = ("*token*", "vocab*", "merges.txt", "*.model", "*.jinja", "config.json")
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Tables are padded to round sizes, and tokens renamed, never by more than this.
_LEEWAY = 0.1
# Vocabularies of characters have none, those of words tens of thousands.
_CHINESE_WORDS = 1000
_WANTS_RJIEBA = (
    "its tokenizer splits Chinese text into words by the library rjieba, which is not installed: "
    "pip install 'simjax[chinese]'"
)


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerFast:
    """A fast tokenizer without the padding and truncation that its file may have baked in.

    Args:
        source: A folder, a hub id, or a vocabulary with one token per line (`vocab.txt`), which
            may be all that a folder has. Such a vocabulary lower-cases if it has no word with a
            capital letter. With a thousand Chinese words it is one of RoFormer's, as WoBERT's is,
            whose texts are split into words by jieba; otherwise one of BERT's, in which each
            Chinese character is a token, as in RoFormer-v2's.

    Raises:
        SimjaxError: no tokenizer there, one that cannot be read, or the library rjieba is needed
            and not installed.
    """
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix != ".txt":
            raise SimjaxError(f"{path}: give a folder, a hub id or a vocab.txt")
        tokenizer = _from_vocabulary(path)
    else:
        described = describe(resolve(source))
        tokenizer = _from_folder(described.transformer)
        if described.lower_case:
            _lower_case(tokenizer)
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    return tokenizer


def check_tokenizer(tokenizer: PreTrainedTokenizerFast, config: EncoderConfig) -> None:
    """Refuse a tokenizer whose ids the encoder's token table does not have, or hardly uses.

    Raises:
        SimjaxError: ids out of range, a far smaller vocabulary, another padding id, or no tokens
            at the ends of a text.
    """
    name = getattr(tokenizer, "name_or_path", "") or "the tokenizer"
    vocabulary = tokenizer.get_vocab()
    largest = max(vocabulary.values(), default=-1)
    if largest >= config.vocab_size:
        raise SimjaxError(
            f"{name}: token ids reach {largest}, but the weights have {config.vocab_size} rows; "
            f"take the tokenizer that the weights were trained with"
        )
    if len(set(vocabulary.values())) < len(vocabulary):
        raise SimjaxError(
            f"{name}: two tokens have one id; is a special token missing from its vocabulary?"
        )
    if largest + 1 < (1 - _LEEWAY) * config.vocab_size:
        raise SimjaxError(
            f"{name}: has {largest + 1} tokens, but the weights have {config.vocab_size} rows; "
            f"take the tokenizer that the weights were trained with"
        )
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != config.pad_token_id:
        raise SimjaxError(
            f"{name}: its tokenizer pads with id {tokenizer.pad_token_id}, the weights with "
            f"{config.pad_token_id}; they do not belong together"
        )
    if not tokenizer("a")["input_ids"][:1] == [tokenizer.cls_token_id]:
        raise SimjaxError(f"{name}: does not begin a text with its classification token")


def check_same_ids(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Refuse a tokenizer that gives tokens other ids than the one in a model's own folder does.

    A few tokens may differ, such as unused ones that were put to use. A folder without a
    tokenizer allows any.

    Raises:
        SimjaxError: More than a tenth of the tokens have other ids there.
    """
    if not _has_vocabulary(describe(folder).transformer):
        return
    own, given = load_tokenizer(folder).get_vocab(), tokenizer.get_vocab()
    same = sum(given.get(token) == number for token, number in own.items())
    if same < (1 - _LEEWAY) * len(own):
        name = getattr(tokenizer, "name_or_path", "") or "the tokenizer"
        raise SimjaxError(
            f"{name}: gives {len(own) - same:,} of {len(own):,} tokens other ids than the "
            f"tokenizer in {folder}, which the weights were trained with; leave tokenizer.source "
            "out to take that one"
        )


def _has_vocabulary(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _VOCABULARIES)


def _from_folder(folder: Path) -> PreTrainedTokenizerFast:
    if not _has_vocabulary(folder):
        raise SimjaxError(f"{folder}: holds no tokenizer (none of {', '.join(_VOCABULARIES)})")
    _check_files(folder)
    if _is_bare(folder):
        return _from_vocabulary(folder / "vocab.txt")
    from transformers import AutoTokenizer, RoFormerTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), use_fast=True, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # the Rust reader raises Exception itself
        if "rjieba" in str(error):
            raise SimjaxError(f"{folder}: {_WANTS_RJIEBA}") from error
        reason = (str(error).strip().splitlines() or [""])[0]
        raise SimjaxError(
            f"{folder}: its tokenizer cannot be read ({type(error).__name__}: {reason}); see "
            f"{', '.join(name for name in _VOCABULARIES if (folder / name).is_file())}"
        ) from error
    if not tokenizer.is_fast:
        raise SimjaxError(f"{folder}: holds only a slow tokenizer; tokenizer.json is needed")
    if isinstance(tokenizer, RoFormerTokenizer):
        _split_words(tokenizer)
    return tokenizer


def _is_bare(folder: Path) -> bool:
    """Whether there is a vocabulary of BERT's kind, and nothing else that says how to use it."""
    if any(
        (folder / name).is_file()
        for name in (*_VOCABULARIES, "tokenizer_config.json")
        if name != "vocab.txt"
    ):
        return False
    path = folder / "config.json"
    family = read_json_object(path).get("model_type") if path.is_file() else None
    return family in (None, "bert", "roformer")


def _split_words(tokenizer: RoFormerTokenizer) -> None:
    """Make jieba keep the words of the vocabulary whole.

    Where it is read from a vocab.txt, transformers 5 hands that file's name to the splitter for the
    vocabulary, so that every word falls into its characters.
    """
    from tokenizers.pre_tokenizers import PreTokenizer
    from transformers.models.roformer.tokenization_utils import JiebaPreTokenizer

    splitter = JiebaPreTokenizer(tokenizer.get_vocab())
    tokenizer.backend_tokenizer.pre_tokenizer = PreTokenizer.custom(splitter)


def _check_files(folder: Path) -> None:
    """What transformers opens is to be opened; its settings name no other files."""
    for pattern in _OPENED:
        for path in folder.glob(pattern):
            if not path.is_dir():
                check_file(path, VOCABULARY_BYTES)
    templates = folder / "additional_chat_templates"
    if templates.is_symlink():
        raise SimjaxError(f"{templates}: is a link, which is not followed; remove it")
    for path in templates.glob("*"):
        check_file(path, VOCABULARY_BYTES)
    path = folder / "tokenizer_config.json"
    if not os.path.lexists(path):
        return
    settings = read_json_object(path)
    if settings.get("init_inputs"):
        raise SimjaxError(f"{path}: init_inputs are not supported; remove them")
    files = settings.get("fast_tokenizer_files") or []
    if not isinstance(files, list) or not all(
        isinstance(name, str) and Path(name).name == name for name in files
    ):
        raise SimjaxError(f"{path}: fast_tokenizer_files must be names of files that lie beside it")


def _from_vocabulary(path: Path) -> PreTrainedTokenizerFast:
    from transformers import BertTokenizerFast, RoFormerTokenizer

    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise SimjaxError(f"{path}: is not UTF-8 text ({error.reason})") from error
    tokens = [line.rstrip("\r") for line in lines]
    if tokens and not tokens[-1]:
        tokens.pop()
    vocabulary = {token: number for number, token in enumerate(tokens)}
    missing = [token for token in _SPECIAL if token not in vocabulary]
    if missing:
        raise SimjaxError(f"{path}: is no BERT vocabulary; it lacks {', '.join(missing)}")
    if len(vocabulary) < len(tokens):
        line = next(n for n, token in enumerate(tokens, 1) if vocabulary[token] != n - 1)
        raise SimjaxError(f"{path}:{line}: token {tokens[line - 1]!r} appears again further down")
    words = [word for word in (token.removeprefix("##") for token in tokens) if word.isalpha()]
    lower = all(word == word.lower() for word in words)  # "<S>" is no word
    if sum(map(_is_chinese_word, tokens)) < _CHINESE_WORDS:
        return BertTokenizerFast(vocab=vocabulary, do_lower_case=lower)
    try:
        return RoFormerTokenizer(vocab=vocabulary, do_lower_case=lower)
    except ImportError as error:
        raise SimjaxError(f"{path}: {_WANTS_RJIEBA}") from error


def _is_chinese_word(token: str) -> bool:
    return len(token) > 1 and all("\u4e00" <= letter <= "\u9fff" for letter in token)


def _lower_case(tokenizer: PreTrainedTokenizerFast) -> None:
    from tokenizers import normalizers

    backend = tokenizer.backend_tokenizer
    if getattr(backend.normalizer, "lowercase", False):
        return
    before = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *before])
