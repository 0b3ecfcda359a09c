"""What a sentence-transformers folder says about itself: modules, lengths, prompts."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from simjax.errors import SimjaxError
from simjax.models.heads import HeadActivation, HeadConfig, HeadWeights
from simjax.models.module_folders import SETTINGS, find, inside
from simjax.models.pooling import Pooling
from simjax.models.tensor_files import TensorFolder, read_json, read_json_object

POOLING_WORDS: dict[str, Pooling] = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_length",
    "weightedmean": "weighted_mean",
    "lasttoken": "last_token",
}
"""Our names of sentence-transformers' poolings."""
POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Old folders name a pooling by a flag, new ones by a word."""
_ACTIVATIONS: dict[str, HeadActivation] = {"Tanh": "tanh", "Identity": "identity"}


@dataclass(frozen=True)
class Described:
    """A folder, read except for the encoder's weights."""

    transformer: Path
    """The folder of `config.json`, the weights and the tokenizer."""
    pooling: Pooling | None = None
    """None if the folder does not say."""
    heads: tuple[HeadWeights, ...] = ()
    normalize: bool = False
    max_length: int | None = None
    lower_case: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    flow: Path | None = None
    """The folder of a flow behind the heads, which sentence-transformers does not know of."""


def describe(folder: Path) -> Described:
    """Read `modules.json` and what it points to; a folder without one is the transformer itself.

    Module types are known by the last part of their class path, so that folders written before
    and after sentence-transformers moved its classes both load. No class is ever imported.

    Raises:
        SimjaxError: a module that we do not have, or a file that is missing or malformed.
    """
    path = folder / "modules.json"
    if not os.path.lexists(path):
        return Described(transformer=folder, **_transformer_settings(folder))
    listed = read_json(path)
    if not isinstance(listed, list) or not all(
        isinstance(m, dict) and isinstance(m.get("type"), str) for m in listed
    ):
        raise SimjaxError(f"{path}: expected a list of modules, each with a type")
    transformer: Path | None = None
    pooling: Pooling | None = None
    layers: Pooling | None = None
    heads: list[HeadWeights] = []
    normalize = False
    for module in listed:
        kind = module["type"].rsplit(".", 1)[-1]
        if not module["type"].startswith("sentence_transformers."):
            raise SimjaxError(f"{path}: module {module['type']} is custom code, which is never run")
        place = inside(folder, module.get("path") or "", path)
        if kind == "Transformer" and transformer is None:
            transformer = place
        elif kind == "WeightedLayerPooling" and pooling is None and transformer is not None:
            layers = _layer_weights(place, transformer)
        elif kind == "Pooling" and pooling is None and transformer is not None:
            pooling = _pooling(place / "config.json")
            if layers is not None and pooling != "mean":
                raise SimjaxError(f"{place}: pooling {pooling} of weighted layers is not supported")
            pooling = layers or pooling
        elif kind == "Dense" and pooling is not None and not normalize:
            heads.append(_dense(place))
        elif kind == "Normalize" and pooling is not None:
            normalize = True
        elif kind != "Dropout":  # Dropout does nothing outside of training.
            raise SimjaxError(
                f"{path}: module {module['type']} is not supported here; supported is "
                f"Transformer, Pooling, any number of Dense, Normalize, in this order"
            )
    if transformer is None or pooling is None:
        raise SimjaxError(f"{path}: needs a Transformer and a Pooling module")
    return Described(
        transformer=transformer,
        pooling=pooling,
        heads=tuple(heads),
        normalize=normalize,
        **_transformer_settings(transformer),
        **_use(folder),
    )


def _pooling(path: Path) -> Pooling:
    config = read_json_object(path)
    mode = config.get("pooling_mode")
    if mode is None:
        mode = [word for flag, word in POOLING_FLAGS.items() if config.get(flag)] or ["mean"]
    modes = mode if isinstance(mode, list) else [mode]
    if config.get("include_prompt") is False:
        raise SimjaxError(f"{path}: include_prompt false is not supported")
    if len(modes) != 1 or not isinstance(modes[0], str) or modes[0] not in POOLING_WORDS:
        raise SimjaxError(
            f"{path}: pooling {' + '.join(map(str, modes))} is not supported; "
            f"one of {', '.join(POOLING_WORDS)} is"
        )
    return POOLING_WORDS[modes[0]]


def _layer_weights(folder: Path, transformer: Path) -> Pooling:
    """The pooling of two layers with weights of 1, the first and the last or the last two."""
    path = folder / "config.json"
    config = read_json_object(path)
    shape = read_json_object(transformer / "config.json")
    layers = shape.get("num_hidden_layers", shape.get("n_layers"))
    if config.get("layer_start") != 1 or type(layers) is not int or layers < 1:
        raise SimjaxError(f"{path}: layer_start must be 1 (the first is the first layer)")
    found = TensorFolder(folder).read("layer_weights", (layers,), str(path))
    poolings: tuple[Pooling, ...] = ("first_last_mean", "top2_mean")
    for pooling in poolings:
        if np.array_equal(found, two_layer_weights(pooling, layers)):
            return pooling
    raise SimjaxError(
        f"{folder}: only layer weights of 1, for the first and the last layer or for the last two, "
        "and 0 are supported"
    )


def two_layer_weights(pooling: Pooling, layers: int) -> Float[np.ndarray, "layers"]:
    """What `WeightedLayerPooling` weighs layers with to be `first_last_mean` or `top2_mean`."""
    weights = np.zeros(layers, np.float32)
    weights[[0 if pooling == "first_last_mean" else max(0, layers - 2), -1]] = 1.0
    return weights


def _dense(folder: Path) -> HeadWeights:
    path = folder / "config.json"
    config = read_json_object(path)
    name = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    activation = _ACTIVATIONS.get(name.rsplit(".", 1)[-1])
    if activation is None or not name.startswith("torch.nn."):
        raise SimjaxError(
            f"{path}: activation_function {name} is not supported; "
            f"torch.nn's {' and '.join(_ACTIVATIONS)} are"
        )
    if config.get("use_residual"):
        raise SimjaxError(f"{path}: use_residual is not supported")
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise SimjaxError(f"{path}: {key} {config[key]!r} is not supported")
    sizes = []
    for key in ("in_features", "out_features"):
        if type(config.get(key)) is not int or config[key] < 1:
            raise SimjaxError(f"{path}: {key} is {config.get(key)!r}, not a positive whole number")
        sizes.append(config[key])
    shape = HeadConfig(sizes[0], sizes[1], activation, config.get("bias") is not False)
    tensors = TensorFolder(folder)
    because = str(path)
    weight = tensors.read("linear.weight", (shape.out_features, shape.in_features), because)
    bias = tensors.read("linear.bias", (shape.out_features,), because) if shape.use_bias else None
    return HeadWeights(weight, bias, activation)


def _transformer_settings(folder: Path) -> dict[str, Any]:
    """Length and case; the length falls back on the tokenizer's, as sentence-transformers does."""
    max_length, lower_case = None, False
    path = folder / "sentence_bert_config.json"
    if os.path.lexists(path):
        config = read_json_object(path)
        max_length, lower_case = config.get("max_seq_length"), bool(config.get("do_lower_case"))
    if max_length is None and os.path.lexists(folder / "tokenizer_config.json"):
        path = folder / "tokenizer_config.json"
        max_length = read_json_object(path).get("model_max_length")
        # Tokenizers without a limit write a huge number, sometimes as a float.
        max_length = None if isinstance(max_length, float) else max_length
    if max_length is not None and (type(max_length) is not int or max_length < 1):
        raise SimjaxError(f"{path}: length {max_length!r} is not a positive whole number")
    return {"max_length": max_length, "lower_case": lower_case}


def _use(folder: Path) -> dict[str, Any]:
    """Prompts, and the flow."""
    path = folder / SETTINGS
    if not os.path.lexists(path):
        return {}
    config = read_json_object(path)
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(p, str) for p in prompts.values()):
        raise SimjaxError(f"{path}: prompts must map names to texts")
    default = config.get("default_prompt_name")
    if default is not None and not (isinstance(default, str) and default in prompts):
        raise SimjaxError(f"{path}: default_prompt_name {default!r} is not among its prompts")
    return {
        "prompts": dict(prompts),
        "default_prompt": default,
        "flow": find(folder).get("flow"),
    }
