"""Hugging Face's names of tensors, by family, and parameters put together from them and back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from simjax.errors import SimjaxError
from simjax.models.config import EncoderConfig
from simjax.models.families import Family
from simjax.models.positions import BUCKETS
from simjax.types import Params

# Where SimCSE's own training code leaves the dense layer of its pooler.
SIMCSE_HEAD = "mlp.dense"
_BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")

Read = Callable[[str, tuple[int, ...]], np.ndarray]


@dataclass(frozen=True)
class Names:
    """What a family calls its tensors.

    Attributes:
        prefixes: What stands before all names where a task's head was saved as well.
        outside: Tensors outside of the layers, by their path here; without `.weight` and `.bias`.
        layer: What stands before a layer's names, with its number.
        dense: Dense layers of a layer, by their name here; several where ours are joined.
        norms: Norms of a layer.
        pooler: The dense layer over the first token that the family's own model has.
        lm_head: Dense layer, norm and bias of the head that masked tokens are predicted by.
        interleaved: Rotary features are pairs of neighbours, where ours are halves apart.
        constant: A tensor that is no parameter: the table of sines and cosines.
    """

    prefixes: tuple[str, ...]
    outside: Mapping[tuple[str, ...], str]
    layer: str = "encoder.layer.{}."
    dense: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _BERT_DENSE)
    norms: Mapping[str, str] = field(default_factory=lambda: _BERT_NORMS)
    pooler: str | None = None
    lm_head: tuple[str, str, str] = ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias")
    interleaved: bool = False
    constant: str | None = None


_Outside: TypeAlias = dict[tuple[str, ...], str]

_BERT_DENSE: dict[str, tuple[str, ...]] = {
    "qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention_output": ("attention.output.dense",),
    "intermediate": ("intermediate.dense",),
    "output": ("output.dense",),
}
_BERT_NORMS: dict[str, str] = {
    "attention_norm": "attention.output.LayerNorm",
    "output_norm": "output.LayerNorm",
}
_WORDS: _Outside = {
    ("embeddings", "word"): "embeddings.word_embeddings",
    ("embeddings", "norm"): "embeddings.LayerNorm",
}
_POSITIONS: _Outside = {("embeddings", "position"): "embeddings.position_embeddings"}
_TYPES: _Outside = {("embeddings", "token_type"): "embeddings.token_type_embeddings"}
_TABLES = _WORDS | _POSITIONS | _TYPES
_PROJECTION: _Outside = {("embeddings", "projection"): "embeddings_project"}
_BERT_LM_HEAD = (
    "cls.predictions.transform.dense",
    "cls.predictions.transform.LayerNorm",
    "cls.predictions.bias",
)
_ROBERTA = Names(("roberta.",), _TABLES, pooler="pooler.dense")

NAMES: dict[Family, Names] = {
    # Encoders of any of these three were saved under any of these prefixes.
    "bert": Names(("bert.", "roberta."), _TABLES, pooler="pooler.dense", lm_head=_BERT_LM_HEAD),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": Names(
        ("electra.",),
        _TABLES | _PROJECTION,
        lm_head=(
            "generator_predictions.dense",
            "generator_predictions.LayerNorm",
            "generator_lm_head.bias",
        ),
    ),
    "roformer": Names(
        ("roformer.",),
        _WORDS | _TYPES | _PROJECTION,
        lm_head=_BERT_LM_HEAD,
        interleaved=True,
        constant="encoder.embed_positions.weight",
    ),
    "distilbert": Names(
        ("distilbert.",),
        _WORDS | _POSITIONS,
        layer="transformer.layer.{}.",
        dense={
            "qkv": ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
            "attention_output": ("attention.out_lin",),
            "intermediate": ("ffn.lin1",),
            "output": ("ffn.lin2",),
        },
        norms={"attention_norm": "sa_layer_norm", "output_norm": "output_layer_norm"},
        lm_head=("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
    ),
    "mpnet": Names(
        ("mpnet.",),
        _WORDS | _POSITIONS | {("relative",): "encoder.relative_attention_bias"},
        dense=_BERT_DENSE
        | {
            "qkv": ("attention.attn.q", "attention.attn.k", "attention.attn.v"),
            "attention_output": ("attention.attn.o",),
        },
        norms={"attention_norm": "attention.LayerNorm", "output_norm": "output.LayerNorm"},
        pooler="pooler.dense",
    ),
    "albert": Names(
        ("albert.",),
        _TABLES | {("embeddings", "projection"): "encoder.embedding_hidden_mapping_in"},
        layer="encoder.albert_layer_groups.0.albert_layers.{}.",
        dense={
            "qkv": ("attention.query", "attention.key", "attention.value"),
            "attention_output": ("attention.dense",),
            "intermediate": ("ffn",),
            "output": ("ffn_output",),
        },
        norms={"attention_norm": "attention.LayerNorm", "output_norm": "full_layer_layer_norm"},
        pooler="pooler",
        lm_head=("predictions.dense", "predictions.LayerNorm", "predictions.bias"),
    ),
    "modernbert": Names(
        ("model.",),
        {
            ("embeddings", "word"): "embeddings.tok_embeddings",
            ("embeddings", "norm"): "embeddings.norm",
            ("norm",): "final_norm",
        },
        layer="layers.{}.",
        dense={
            "qkv": ("attn.Wqkv",),
            "attention_output": ("attn.Wo",),
            "intermediate": ("mlp.Wi",),
            "output": ("mlp.Wo",),
        },
        norms={"attention_norm": "attn_norm", "output_norm": "mlp_norm"},
        lm_head=("head.dense", "head.norm", "decoder.bias"),
    ),
}


def prefix_of(family: Family, names: set[str], path: Path) -> str:
    """What stands before the encoder's names: nothing, or the family's name and a dot.

    Raises:
        SimjaxError: no token table in the file.
    """
    table = f"{NAMES[family].outside['embeddings', 'word']}.weight"
    for prefix in ("", *NAMES[family].prefixes):
        if prefix + table in names:
            return prefix
    raise SimjaxError(f"{path}: tensor {table} is missing; this is no {family} encoder")


def unexpected(config: EncoderConfig, names: set[str], prefix: str) -> list[str]:
    """Tensors that belong to no part of the encoder that `config.json` describes.

    Task heads outside of the prefix, the pooler and constant buffers are expected and ignored.
    """
    if config.stacked_layers > len(names):
        return []  # of more layers than there are tensors one is missing, which reading them shows
    own = NAMES[config.family]
    known = {tensor.name for tensor in _tensors(config)} | {*_BUFFERS, own.constant}
    if own.pooler is not None:
        known |= {f"{own.pooler}.weight", f"{own.pooler}.bias"}

    def is_known(name: str) -> bool:
        return not name.startswith(prefix) or modern(name[len(prefix) :]) in known

    return sorted(name for name in names if not is_known(name))


def modern(name: str) -> str:
    """Today's name of a tensor; files from before 2019 call norms' parameters gamma and beta."""
    return re.sub(
        r"LayerNorm\.gamma$",
        "LayerNorm.weight",
        re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name),
    )


@dataclass(frozen=True)
class _Tensor:
    """One of their tensors and the part of ours that it is."""

    name: str
    shape: tuple[int, ...]
    path: tuple[str, ...]
    """Of our leaf."""
    layer: int | None = None
    """Place on our leaf's leading axis."""
    part: tuple[int, int] = (0, 1)
    """Which of how many that stand side by side on our leaf's last axis."""
    paired: bool = False
    """Features of each head stand in another order."""


def _tensors(config: EncoderConfig) -> Iterator[_Tensor]:
    own, architecture = NAMES[config.family], config.architecture
    wide, narrow, inner = config.hidden_size, config.embedding_width, config.intermediate_size
    tables = {
        "word": (config.vocab_size, narrow),
        "position": (config.max_positions + config.position_offset, narrow),
        "token_type": (config.type_vocab_size, narrow),
        "relative": (BUCKETS, config.num_heads),
    }
    for path, name in own.outside.items():
        kind = path[-1]
        if kind in tables:
            yield _Tensor(f"{name}.weight", tables[kind], (*path, "embedding"))
        elif kind == "norm":
            width = narrow if path[0] == "embeddings" else wide
            yield _Tensor(f"{name}.weight", (width,), (*path, "scale"))
            if architecture.norm_bias:
                yield _Tensor(f"{name}.bias", (width,), (*path, "bias"))
        elif config.projected:
            yield _Tensor(f"{name}.weight", (wide, narrow), (*path, "kernel"))
            yield _Tensor(f"{name}.bias", (wide,), (*path, "bias"))
    shapes = {
        "qkv": (3 * wide, wide),
        "attention_output": (wide, wide),
        "intermediate": (config.kernels_in, wide),
        "output": (wide, inner),
    }
    for layer in range(config.stacked_layers):
        start = own.layer.format(layer)
        for kind, names in own.dense.items():
            rows, columns = shapes[kind][0] // len(names), shapes[kind][1]
            for place, name in enumerate(names):
                where = (
                    layer,
                    (place, len(names)),
                    own.interleaved and kind == "qkv" and place < 2,
                )
                path = ("layers", kind)
                yield _Tensor(f"{start}{name}.weight", (rows, columns), (*path, "kernel"), *where)
                if architecture.bias:
                    yield _Tensor(f"{start}{name}.bias", (rows,), (*path, "bias"), *where)
        for kind, name in own.norms.items():
            if _is_identity(config, kind, layer):
                continue
            yield _Tensor(f"{start}{name}.weight", (wide,), ("layers", kind, "scale"), layer)
            if architecture.norm_bias:
                yield _Tensor(f"{start}{name}.bias", (wide,), ("layers", kind, "bias"), layer)


def _parts(config: EncoderConfig, path: tuple[str, ...]) -> int:
    """Dense layers that one of ours is made of, which have a dimension of their own."""
    if path[0] != "layers" or path[1] not in ("qkv", "intermediate"):
        return 1
    return 3 if path[1] == "qkv" else 2 if config.architecture.gated else 1


def _is_identity(config: EncoderConfig, kind: str, layer: int) -> bool:
    """The norm that a first layer which takes normalised embeddings does without."""
    before = config.architecture.norm == "before"
    return before and kind == "attention_norm" and layer == 0


def _halves_apart(array: np.ndarray, heads: int, *, back: bool = False) -> np.ndarray:
    """Rows of each head from pairs of neighbours to two halves, or back."""
    shape = (heads, 2, -1) if back else (heads, -1, 2)
    rows = np.arange(array.shape[0]).reshape(shape).swapaxes(1, 2).reshape(-1)
    return array[rows]


def encoder_params(config: EncoderConfig, read: Read) -> Params:
    """The encoder's parameters, put together from tensors that `read(name, shape)` supplies."""
    # By leaf and layer; what belongs to no layer has number -1.
    found: dict[tuple[str, ...], dict[int, list[np.ndarray]]] = {}
    if config.architecture.norm == "before":
        ones = np.ones(config.hidden_size, np.float32)
        found["layers", "attention_norm", "scale"] = {0: [ones]}
    for tensor in _tensors(config):
        array = read(tensor.name, tensor.shape)
        if tensor.paired:
            array = _halves_apart(array, config.num_heads)
        array = array.T if tensor.path[-1] == "kernel" else array
        number = -1 if tensor.layer is None else tensor.layer
        found.setdefault(tensor.path, {}).setdefault(number, []).append(array)
    params: Params = {}
    for path, layers in found.items():
        joined = {n: np.concatenate(arrays, axis=-1) for n, arrays in layers.items()}
        leaf = joined[-1] if -1 in joined else np.stack([joined[n] for n in sorted(joined)])
        parts = _parts(config, path)
        leaf = leaf if parts == 1 else leaf.reshape(*leaf.shape[:-1], parts, -1)
        place = params
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = leaf
    return params


def lm_head_params(config: EncoderConfig, read: Read) -> Params:
    """The parameters of `lm_head.LanguageModelHead`, from tensors that `read` supplies."""
    architecture, width = config.architecture, config.embedding_width
    dense, norm, bias = NAMES[config.family].lm_head
    kernel = read(f"{dense}.weight", (width, config.hidden_size))
    params: Params = {
        "dense": {"kernel": np.ascontiguousarray(kernel.T)},
        "norm": {"scale": read(f"{norm}.weight", (width,))},
        "bias": read(bias, (config.vocab_size,)),
    }
    if architecture.bias:
        params["dense"]["bias"] = read(f"{dense}.bias", (width,))
    if architecture.norm_bias:
        params["norm"]["bias"] = read(f"{norm}.bias", (width,))
    return params


def lm_head_tensors(config: EncoderConfig, params: Params) -> dict[str, np.ndarray]:
    """The inverse of `lm_head_params`."""
    dense, norm, bias = NAMES[config.family].lm_head
    found = {
        f"{dense}.weight": np.asarray(params["dense"]["kernel"], np.float32).T,
        f"{dense}.bias": params["dense"].get("bias"),
        f"{norm}.weight": params["norm"]["scale"],
        f"{norm}.bias": params["norm"].get("bias"),
        bias: params["bias"],
    }
    return {
        name: np.ascontiguousarray(array, np.float32)
        for name, array in found.items()
        if array is not None
    }


def encoder_tensors(config: EncoderConfig, params: Params) -> dict[str, np.ndarray]:
    """The inverse of `encoder_params`: float32 tensors under Hugging Face's names."""
    tensors: dict[str, np.ndarray] = {}
    for tensor in _tensors(config):
        leaf: Any = params
        for key in tensor.path:
            leaf = leaf[key]
        array = np.asarray(leaf if tensor.layer is None else leaf[tensor.layer], np.float32)
        if _parts(config, tensor.path) > 1:
            array = array.reshape(*array.shape[:-2], -1)
        place, parts = tensor.part
        array = np.split(array, parts, axis=-1)[place]
        array = array.T if tensor.path[-1] == "kernel" else array
        if tensor.paired:
            array = _halves_apart(array, config.num_heads, back=True)
        tensors[tensor.name] = np.ascontiguousarray(array)
    constant = NAMES[config.family].constant
    if constant is not None:
        tensors[constant] = _sines(config.max_positions, config.hidden_size // config.num_heads)
    return tensors


def _sines(positions: int, features: int) -> np.ndarray:
    """Sines of all positions and frequencies, beside their cosines (Vaswani et al. 2017)."""
    frequencies = 10_000.0 ** -(np.arange(0, features, 2) / features)
    angles = np.arange(positions)[:, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
