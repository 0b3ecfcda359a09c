"""Hugging Face's names and configuration keys for BERT, RoBERTa and XLM-R encoders."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from simjax.errors import SimjaxError, UsageError
from simjax.models.encoder import Activation, EncoderConfig, Family
from simjax.types import Params

_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "gelu_python_tanh": "gelu_new",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
_FAMILIES: dict[str, Family] = {
    "bert": "bert",
    "roberta": "roberta",
    "xlm-roberta": "xlm-roberta",
}
_ARCHITECTURES = {"bert": "BertModel", "roberta": "RobertaModel", "xlm-roberta": "XLMRobertaModel"}

# Ours under `encoder.embeddings`, theirs behind an optional prefix ("bert.").
EMBEDDING_NAMES = {
    ("word", "embedding"): "embeddings.word_embeddings.weight",
    ("position", "embedding"): "embeddings.position_embeddings.weight",
    ("token_type", "embedding"): "embeddings.token_type_embeddings.weight",
    ("norm", "scale"): "embeddings.LayerNorm.weight",
    ("norm", "bias"): "embeddings.LayerNorm.bias",
}
# Ours under `encoder.layers`, stacked; theirs one per layer, several where ours are joined.
_DENSE = {
    "qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention_output": ("attention.output.dense",),
    "intermediate": ("intermediate.dense",),
    "output": ("output.dense",),
}
_NORMS = {
    "attention_norm": "attention.output.LayerNorm",
    "output_norm": "output.LayerNorm",
}
POOLER_WEIGHT, POOLER_BIAS = "pooler.dense.weight", "pooler.dense.bias"
# Where SimCSE's own training code leaves the dense layer of its pooler.
SIMCSE_WEIGHT, SIMCSE_BIAS = "mlp.dense.weight", "mlp.dense.bias"
_LAYER = re.compile(r"encoder\.layer\.(\d+)\.")
_BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")

Read = Callable[[str, tuple[int, ...]], np.ndarray]


def config_from_hf(content: dict[str, Any], path: Path) -> EncoderConfig:
    """The shape that a `config.json` describes.

    Args:
        content: The file's content.
        path: The file, for errors.

    Raises:
        SimjaxError: a model that is not ours to run, a missing key or an impossible value.
    """
    model_type = content.get("model_type")
    if content.get("auto_map"):
        raise SimjaxError(f"{path}: auto_map asks for code from the folder, which is never run")
    if model_type not in _FAMILIES:
        raise SimjaxError(
            f"{path}: model_type {model_type!r} is not supported; "
            f"choose a model of type {', '.join(_FAMILIES)}"
        )
    for key, wanted in (
        ("is_decoder", False),
        ("add_cross_attention", False),
        ("position_embedding_type", "absolute"),
    ):
        if content.get(key) not in (None, wanted):
            raise SimjaxError(f"{path}: {key} {content[key]!r} is not supported; only {wanted!r}")
    activation = content.get("hidden_act", "gelu")
    if activation not in _ACTIVATIONS:
        raise SimjaxError(
            f"{path}: hidden_act {activation!r} is not supported; "
            f"one of {', '.join(_ACTIVATIONS)} is"
        )

    def integer(key: str, default: int | None = None) -> int:
        value = content.get(key)
        value = default if value is None else value
        if type(value) is not int:
            problem = "is missing" if value is None else f"is {value!r}, not a whole number"
            raise SimjaxError(f"{path}: {key} {problem}")
        return value

    def real(key: str, default: float) -> float:
        value = content.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SimjaxError(f"{path}: {key} is {value!r}, not a number")
        return float(value)

    family = _FAMILIES[model_type]
    pad_token_id = integer("pad_token_id", 0 if family == "bert" else 1)
    hidden = 0 if family == "bert" else pad_token_id + 1
    try:
        return EncoderConfig(
            family=family,
            vocab_size=integer("vocab_size"),
            hidden_size=integer("hidden_size"),
            num_layers=integer("num_hidden_layers"),
            num_heads=integer("num_attention_heads"),
            intermediate_size=integer("intermediate_size"),
            max_positions=integer("max_position_embeddings") - hidden,
            type_vocab_size=integer("type_vocab_size", 2),
            activation=_ACTIVATIONS[activation],
            layer_norm_eps=real("layer_norm_eps", 1e-12),
            hidden_dropout=real("hidden_dropout_prob", 0.1),
            attention_dropout=real("attention_probs_dropout_prob", 0.1),
            initializer_range=real("initializer_range", 0.02),
            pad_token_id=pad_token_id,
        )
    except UsageError as error:
        raise SimjaxError(f"{path}: {error}") from error


def hf_config(config: EncoderConfig) -> dict[str, Any]:
    """The content of a `config.json` with which `transformers.AutoModel` builds this encoder."""
    bert = config.family == "bert"
    return {
        "architectures": [_ARCHITECTURES[config.family]],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.intermediate_size,
        "hidden_act": config.activation,
        "hidden_dropout_prob": config.hidden_dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "max_position_embeddings": config.max_positions + config.position_offset,
        "type_vocab_size": config.type_vocab_size,
        "initializer_range": config.initializer_range,
        "layer_norm_eps": config.layer_norm_eps,
        "pad_token_id": config.pad_token_id,
        "bos_token_id": None if bert else 0,
        "eos_token_id": None if bert else 2,
        "position_embedding_type": "absolute",
        "dtype": "float32",
    }


def prefix_of(names: set[str], path: Path) -> str:
    """What stands before the encoder's names: nothing, or the family's name and a dot.

    Raises:
        SimjaxError: no token table in the file.
    """
    table = EMBEDDING_NAMES["word", "embedding"]
    for prefix in ("", "bert.", "roberta."):
        if prefix + table in names:
            return prefix
    raise SimjaxError(f"{path}: tensor {table} is missing; this is no BERT or RoBERTa encoder")


def unexpected(names: set[str], prefix: str, num_layers: int) -> list[str]:
    """Tensors that belong to no part of the encoder that `config.json` describes.

    Task heads outside of the prefix, the pooler and constant buffers are expected and ignored.
    """
    layer_names = {
        f"{theirs}.{leaf}"
        for names in _DENSE.values()
        for theirs in names
        for leaf in ("weight", "bias")
    } | {f"{theirs}.{leaf}" for theirs in _NORMS.values() for leaf in ("weight", "bias")}
    known = {*EMBEDDING_NAMES.values(), *_BUFFERS, POOLER_WEIGHT, POOLER_BIAS}

    def is_known(name: str) -> bool:
        if not name.startswith(prefix):
            return True
        name = modern(name[len(prefix) :])
        layer = _LAYER.match(name)
        if layer is None:
            return name in known
        return int(layer[1]) < num_layers and name[layer.end() :] in layer_names

    return sorted(name for name in names if not is_known(name))


def modern(name: str) -> str:
    """Today's name of a tensor; files from before 2019 call norms' parameters gamma and beta."""
    return re.sub(
        r"LayerNorm\.gamma$",
        "LayerNorm.weight",
        re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name),
    )


def encoder_params(config: EncoderConfig, read: Read) -> Params:
    """The encoder's parameters, put together from tensors that `read(name, shape)` supplies."""
    width, inner = config.hidden_size, config.intermediate_size
    rows = {
        "word": config.vocab_size,
        "position": config.max_positions + config.position_offset,
        "token_type": config.type_vocab_size,
    }
    embeddings: dict[str, dict[str, np.ndarray]] = {}
    for (part, leaf), name in EMBEDDING_NAMES.items():
        shape = (width,) if part == "norm" else (rows[part], width)
        embeddings.setdefault(part, {})[leaf] = read(name, shape)
    shapes = {
        "qkv": (width, width),
        "attention_output": (width, width),
        "intermediate": (inner, width),
        "output": (width, inner),
    }

    def layer(number: int) -> dict[str, dict[str, np.ndarray]]:
        start = f"encoder.layer.{number}."
        dense = {
            ours: {
                "kernel": np.concatenate(
                    [read(f"{start}{name}.weight", shapes[ours]).T for name in theirs], axis=1
                ),
                "bias": np.concatenate(
                    [read(f"{start}{name}.bias", shapes[ours][:1]) for name in theirs]
                ),
            }
            for ours, theirs in _DENSE.items()
        }
        norms = {
            ours: {
                "scale": read(f"{start}{name}.weight", (width,)),
                "bias": read(f"{start}{name}.bias", (width,)),
            }
            for ours, name in _NORMS.items()
        }
        return dense | norms

    layers = [layer(number) for number in range(config.num_layers)]
    stacked = {
        part: {leaf: np.stack([one[part][leaf] for one in layers]) for leaf in layers[0][part]}
        for part in layers[0]
    }
    return {"embeddings": embeddings, "layers": stacked}


def encoder_tensors(params: Params) -> dict[str, np.ndarray]:
    """The inverse of `encoder_params`: float32 tensors under Hugging Face's names."""

    def host(array: Any) -> np.ndarray:
        return np.asarray(array, dtype=np.float32)

    tensors = {
        name: host(params["embeddings"][part][leaf])
        for (part, leaf), name in EMBEDDING_NAMES.items()
    }
    layers = {
        part: {k: host(v) for k, v in leaves.items()} for part, leaves in params["layers"].items()
    }
    for number in range(layers["output_norm"]["scale"].shape[0]):
        start = f"encoder.layer.{number}."
        for ours, theirs in _DENSE.items():
            kernels = np.split(layers[ours]["kernel"][number], len(theirs), axis=1)
            biases = np.split(layers[ours]["bias"][number], len(theirs))
            for name, kernel, bias in zip(theirs, kernels, biases, strict=True):
                tensors[f"{start}{name}.weight"] = np.ascontiguousarray(kernel.T)
                tensors[f"{start}{name}.bias"] = np.ascontiguousarray(bias)
        for ours, name in _NORMS.items():
            tensors[f"{start}{name}.weight"] = np.ascontiguousarray(layers[ours]["scale"][number])
            tensors[f"{start}{name}.bias"] = np.ascontiguousarray(layers[ours]["bias"][number])
    return tensors
