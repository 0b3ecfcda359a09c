"""The model of a recipe as shapes alone: no weights are read or drawn."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
from flax import nnx

from simjax.errors import SimjaxError
from simjax.models import hf
from simjax.models.config import EncoderConfig
from simjax.models.heads import HeadConfig
from simjax.models.hf_config import config_from_hf
from simjax.models.lm_head import LanguageModelHead
from simjax.models.modules_json import describe
from simjax.models.pooling import Pooling
from simjax.models.sentence_model import SentenceModel
from simjax.models.tensor_files import read_json_object
from simjax.objectives.masked_lm import Vocabulary
from simjax.train.config import RunConfig
from simjax.train.system import masks

# What the `config.json` of these models says, for plans that are made without a network.
_BERT_BASE = EncoderConfig(
    hidden_size=768, num_layers=12, num_heads=12, intermediate_size=3072, vocab_size=30522
)
_ROBERTA_BASE = dataclasses.replace(
    _BERT_BASE,
    family="roberta",
    vocab_size=50265,
    type_vocab_size=1,
    pad_token_id=1,
    layer_norm_eps=1e-5,
)


def _large(shape: EncoderConfig) -> EncoderConfig:
    return dataclasses.replace(
        shape, hidden_size=1024, num_layers=24, num_heads=16, intermediate_size=4096
    )


def _small(layers: int) -> EncoderConfig:
    return dataclasses.replace(
        _BERT_BASE, hidden_size=384, num_layers=layers, intermediate_size=1536
    )


KNOWN: dict[str, EncoderConfig] = {
    "google-bert/bert-base-uncased": _BERT_BASE,
    "google-bert/bert-large-uncased": _large(_BERT_BASE),
    "FacebookAI/roberta-base": _ROBERTA_BASE,
    "FacebookAI/roberta-large": _large(_ROBERTA_BASE),
    "microsoft/MiniLM-L12-H384-uncased": _small(12),
    "sentence-transformers/all-MiniLM-L6-v2": _small(6),
}


@dataclass(frozen=True)
class Shapes:
    """A model's shapes.

    Attributes:
        model: With `jax.ShapeDtypeStruct` for arrays.
        source: Where its shape is from, in words.
    """

    model: SentenceModel
    source: str

    @property
    def encoder(self) -> EncoderConfig:
        """The shape of the encoder."""
        return self.model.config


def abstract_model(config: RunConfig) -> Shapes:
    """The model that a recipe trains.

    Raises:
        SimjaxError: The pretrained model's `config.json` can neither be read nor had, and it is
            none of those that are known.
    """
    wanted = config.model
    heads: tuple[HeadConfig, ...] = ()
    pooling: Pooling = wanted.pooling or "mean"
    if wanted.pretrained is None:
        shape, source = wanted.encoder, "model.encoder"
        words = _vocabulary_size(config)
        if words is not None:
            shape = dataclasses.replace(shape, vocab_size=words)
    else:
        shape, source, folder = _pretrained(wanted.pretrained)
        if folder is not None:
            described = describe(folder)
            pooling = wanted.pooling or described.pooling or "mean"
            if wanted.pooling in (None, described.pooling):
                heads = tuple(
                    HeadConfig(
                        head.weight.shape[1],
                        head.weight.shape[0],
                        head.activation,
                        head.bias is not None,
                    )
                    for head in described.heads
                )
    if wanted.dropout is not None:
        shape = dataclasses.replace(
            shape, hidden_dropout=wanted.dropout, attention_dropout=wanted.dropout
        )
    model = nnx.eval_shape(
        lambda: SentenceModel(
            shape, pooling, dtype=jnp.dtype(wanted.dtype), heads=heads, rngs=nnx.Rngs(0)
        )
    )
    return Shapes(model, source)


def abstract_heads(config: RunConfig, encoder: EncoderConfig) -> dict[str, LanguageModelHead]:
    """What is trained beside the model, as shapes."""
    if config.objective.mlm is None and config.objective.seq2seq is None:
        return {}
    return {"lm_head": nnx.eval_shape(lambda: LanguageModelHead(encoder, rngs=nnx.Rngs(0)))}


def assumed_vocabulary(config: RunConfig, encoder: EncoderConfig) -> Vocabulary | None:
    """Of masked tokens, where there are any; which ones are special decides no shape."""
    if masks(config.objective) is None:
        return None
    return Vocabulary(encoder.vocab_size, encoder.vocab_size - 1, (encoder.pad_token_id,))


def shape_of(name: str) -> EncoderConfig:
    """The shape of a pretrained encoder.

    Raises:
        SimjaxError: As of `abstract_model`.
    """
    return _pretrained(name)[0]


def _pretrained(name: str) -> tuple[EncoderConfig, str, Path | None]:
    path = Path(name).expanduser()
    if path.exists() or name not in KNOWN:
        return _of_folder(name)
    return KNOWN[name], f"{name}, as published", None


def _of_folder(name: str) -> tuple[EncoderConfig, str, Path | None]:
    if Path(name).expanduser().exists():
        folder = hf.resolve(name)
        described = describe(folder)
        path = described.transformer / "config.json"
        return config_from_hf(read_json_object(path), path), str(path), folder
    from huggingface_hub import hf_hub_download

    try:
        path = Path(hf_hub_download(name, "config.json"))
    except (OSError, ValueError) as error:
        raise SimjaxError(
            f"model.pretrained {name}: its config.json cannot be had; give a folder, or "
            f"one of {', '.join(KNOWN)}, whose shapes are known without a network"
        ) from error
    return config_from_hf(read_json_object(path), path), str(path), None


def _vocabulary_size(config: RunConfig) -> int | None:
    """Tokens of a random encoder's table; None where its tokenizer is not here."""
    source = config.tokenizer.source
    if source == "train":
        return config.tokenizer.vocab_size
    path = Path(source or "").expanduser()
    if source is not None and path.is_file():
        with path.open("rb") as lines:
            return sum(1 for _ in lines)
    if source in KNOWN:
        return KNOWN[source].vocab_size
    return None
