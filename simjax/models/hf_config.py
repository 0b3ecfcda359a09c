"""Hugging Face's `config.json` of an encoder, read and written."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

from simjax.errors import SimjaxError, UsageError
from simjax.models.config import Activation, EncoderConfig
from simjax.models.families import Family

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
_KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "type_vocab_size": "type_vocab_size",
    "activation": "hidden_act",
    "layer_norm_eps": "layer_norm_eps",
    "hidden_dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "initializer_range": "initializer_range",
    "pad_token_id": "pad_token_id",
}
_DEFAULTS: dict[str, Any] = {
    "type_vocab_size": 2,
    "activation": "gelu",
    "layer_norm_eps": 1e-12,
    "hidden_dropout": 0.1,
    "attention_dropout": 0.1,
    "initializer_range": 0.02,
    "pad_token_id": 0,
}
_ENCODER_ALONE = {"is_decoder": False, "add_cross_attention": False}
_ABSOLUTE = _ENCODER_ALONE | {"position_embedding_type": "absolute"}
_ENDS = {"bos_token_id": None, "eos_token_id": None}


@dataclass(frozen=True)
class _Format:
    """How a family writes its configuration.

    Attributes:
        architecture: The class that `transformers.AutoModel` builds.
        keys: Theirs by ours, where they differ from BERT's; None where there is none.
        defaults: Of ours, where a file has no value.
        only: Keys with the one value that is run here.
        written: Keys that are written and not read.
    """

    architecture: str
    keys: Mapping[str, str | None] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    only: Mapping[str, Any] = field(default_factory=lambda: _ABSOLUTE)
    written: Mapping[str, Any] = field(default_factory=lambda: _ENDS)


_AFTER_PADDING: dict[str, Any] = {
    "defaults": {"pad_token_id": 1},
    "written": {"bos_token_id": 0, "eos_token_id": 2},
}
_NARROW = {"embedding_size": "embedding_size"}

_FORMATS: dict[Family, _Format] = {
    "bert": _Format("BertModel"),
    "roberta": _Format("RobertaModel", **_AFTER_PADDING),
    "xlm-roberta": _Format("XLMRobertaModel", **_AFTER_PADDING),
    "camembert": _Format(
        "CamembertModel",
        defaults={"pad_token_id": 1},
        written={"bos_token_id": 5, "eos_token_id": 6},
    ),
    "mpnet": _Format(
        "MPNetModel",
        keys={"type_vocab_size": None},
        # transformers' code takes 32 whatever this key says.
        only=_ABSOLUTE | {"relative_attention_num_buckets": 32},
        **_AFTER_PADDING,
    ),
    "electra": _Format("ElectraModel", keys=_NARROW, defaults={"embedding_size": 128}),
    "albert": _Format(
        "AlbertModel",
        keys=_NARROW,
        defaults={
            "embedding_size": 128,
            "activation": "gelu_new",
            "hidden_dropout": 0.0,
            "attention_dropout": 0.0,
        },
        only=_ABSOLUTE | {"num_hidden_groups": 1, "inner_group_num": 1},
    ),
    "roformer": _Format("RoFormerModel", keys=_NARROW, only=_ABSOLUTE | {"rotary_value": False}),
    "distilbert": _Format(
        "DistilBertModel",
        keys={
            "hidden_size": "dim",
            "num_layers": "n_layers",
            "num_heads": "n_heads",
            "intermediate_size": "hidden_dim",
            "type_vocab_size": None,
            "activation": "activation",
            "layer_norm_eps": None,
            "hidden_dropout": "dropout",
            "attention_dropout": "attention_dropout",
        },
    ),
    "modernbert": _Format(
        "ModernBertModel",
        keys={
            "type_vocab_size": None,
            "activation": "hidden_activation",
            "layer_norm_eps": "norm_eps",
            "hidden_dropout": "mlp_dropout",
            "attention_dropout": "attention_dropout",
            "window": "local_attention",
            "global_every": "global_attn_every_n_layers",
            "rotary_base": "global_rope_theta",
            "window_rotary_base": "local_rope_theta",
        },
        defaults={
            "layer_norm_eps": 1e-5,
            "hidden_dropout": 0.0,
            "attention_dropout": 0.0,
            "pad_token_id": 50283,
            "window": 128,
            "global_every": 3,
            "rotary_base": 160_000.0,
            "window_rotary_base": 10_000.0,
        },
        only=_ENCODER_ALONE | {"norm_bias": False, "attention_bias": False, "mlp_bias": False},
    ),
}
_TYPES = {f.name: str(f.type) for f in dataclasses.fields(EncoderConfig)}
_LAYER_TYPES = ("full_attention", "sliding_attention")


def config_from_hf(content: dict[str, Any], path: Path) -> EncoderConfig:
    """The shape that a `config.json` describes.

    Args:
        content: The file's content.
        path: The file, for errors.

    Raises:
        SimjaxError: a model that is not ours to run, a missing key or an impossible value.
    """
    for key in ("model_type", "position_embedding_type"):
        if isinstance(content.get(key), list | dict):
            raise SimjaxError(f"{path}: {key} is {content[key]!r}, not a word")
    model_type = content.get("model_type")
    if content.get("auto_map"):
        raise SimjaxError(f"{path}: auto_map asks for code from the folder, which is never run")
    if model_type not in get_args(Family):
        raise SimjaxError(
            f"{path}: model_type {model_type!r} is not supported; "
            f"choose a model of type {', '.join(get_args(Family))}"
        )
    family = cast(Family, model_type)
    form = _FORMATS[family]
    for key, wanted in form.only.items():
        if content.get(key) not in (None, wanted):
            raise SimjaxError(f"{path}: {key} {content[key]!r} is not supported; only {wanted!r}")
    if family == "modernbert":
        content = _older(content, path)
    # RoFormer's is that of its hidden states where none is given.
    defaults = _DEFAULTS | {"embedding_size": content.get("hidden_size")} | dict(form.defaults)
    values = {
        ours: _value(content, theirs, ours, defaults.get(ours), path)
        for ours, theirs in (_KEYS | dict(form.keys)).items()
        if theirs is not None
    }
    shape = EncoderConfig(family=family, pad_token_id=values["pad_token_id"])
    try:
        values["max_positions"] -= shape.position_offset
        config = dataclasses.replace(shape, **values)
    except UsageError as error:
        raise SimjaxError(f"{path}: {error}") from error
    for ours, fits in (
        ("layer_norm_eps", 0 < config.layer_norm_eps < math.inf),
        ("initializer_range", 0 <= config.initializer_range < math.inf),
        ("pad_token_id", 0 <= config.pad_token_id < config.vocab_size),
    ):
        if not fits:
            key = dict(form.keys).get(ours) or ours
            raise SimjaxError(f"{path}: {key} is {getattr(config, ours)}, which no model has")
    return config


def _value(content: dict[str, Any], key: str, ours: str, default: Any, path: Path) -> Any:
    value = content.get(key)
    value = default if value is None else value
    if ours == "activation":
        if not isinstance(value, str) or value not in _ACTIVATIONS:
            raise SimjaxError(
                f"{path}: {key} {value!r} is not supported; one of {', '.join(_ACTIVATIONS)} is"
            )
        return _ACTIVATIONS[value]
    if "float" in _TYPES[ours]:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SimjaxError(f"{path}: {key} is {value!r}, not a number")
        try:
            return float(value)
        except OverflowError as error:  # hundreds of digits
            raise SimjaxError(f"{path}: {key} is too large a number") from error
    if type(value) is not int:
        problem = "is missing" if value is None else f"is {value!r}, not a whole number"
        raise SimjaxError(f"{path}: {key} {problem}")
    return value


def _older(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """ModernBERT's configuration with the keys of `transformers` 4 for what 5 writes as lists."""
    content = dict(content)
    if content.get("embedding_dropout", 0.0) != content.get("mlp_dropout", 0.0):
        raise SimjaxError(f"{path}: embedding_dropout and mlp_dropout differ; give them one value")
    bases = content.get("rope_parameters")
    if bases is not None:
        for kind, key in zip(_LAYER_TYPES, ("global_rope_theta", "local_rope_theta"), strict=True):
            own = bases.get(kind) if isinstance(bases, dict) else None
            if not isinstance(own, dict) or own.get("rope_type", "default") != "default":
                raise SimjaxError(
                    f"{path}: rope_parameters.{kind} is {own!r}; only rope_type default is run"
                )
            content[key] = own.get("rope_theta")
    kinds = content.get("layer_types")
    if kinds is not None:
        if not isinstance(kinds, list):
            raise SimjaxError(f"{path}: layer_types is {kinds!r}, not a list")
        every = kinds.index(_LAYER_TYPES[0], 1) if _LAYER_TYPES[0] in kinds[1:] else len(kinds)
        if kinds != _layer_types(len(kinds), every) or len(kinds) != content.get(
            "num_hidden_layers"
        ):
            raise SimjaxError(
                f"{path}: layer_types is not supported; only full_attention in the first and every "
                "n-th layer after it"
            )
        content["global_attn_every_n_layers"] = every
    return content


def _layer_types(layers: int, every: int) -> list[str]:
    return [_LAYER_TYPES[int(layer % every != 0)] for layer in range(layers)]


def hf_config(config: EncoderConfig) -> dict[str, Any]:
    """The content of a `config.json` with which `transformers.AutoModel` builds this encoder."""
    form = _FORMATS[config.family]
    content: dict[str, Any] = {
        "architectures": [form.architecture],
        "model_type": config.family,
        "dtype": "float32",
    }
    for ours, theirs in (_KEYS | dict(form.keys)).items():
        if theirs is not None:
            content[theirs] = getattr(config, ours)
    content["max_position_embeddings"] = config.max_positions + config.position_offset
    content |= {**form.only, **form.written}
    if "embedding_size" in content:
        content["embedding_size"] = config.embedding_width
    if config.family == "modernbert":
        # The keys above are those of transformers 4, which 5 replaces by these.
        base = config.rotary_base or config.architecture.rotary_base
        full, sliding = _LAYER_TYPES
        content |= {
            "embedding_dropout": config.hidden_dropout,
            "global_rope_theta": base,
            "rope_parameters": {
                full: {"rope_type": "default", "rope_theta": base},
                sliding: {"rope_type": "default", "rope_theta": config.window_rotary_base},
            },
            "layer_types": _layer_types(config.num_layers, config.global_every),
        }
    return content
