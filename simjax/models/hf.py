"""Encoders from Hugging Face and sentence-transformers folders, and their tensors back."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from simjax.errors import SimjaxError, UsageError
from simjax.models import names
from simjax.models.config import EncoderConfig
from simjax.models.heads import HeadConfig, HeadWeights
from simjax.models.hf_config import config_from_hf
from simjax.models.hf_config import hf_config as hf_config
from simjax.models.model_files import is_archive
from simjax.models.modules_json import Described, describe
from simjax.models.pooling import Pooling
from simjax.models.sentence_model import SentenceModel, merge, pooler_head, split
from simjax.models.tensor_files import TensorFolder, read_json_object
from simjax.types import Params

# What a model needs, and no pickles, ONNX graphs or other frameworks' copies of the weights.
_WANTED = ["*.json", "*.txt", "*.safetensors"]
_UNWANTED = ["onnx/*", "openvino/*", "*/onnx/*", "*/openvino/*"]


# What heads for masked tokens are like, where a configuration can say otherwise.
_LM_HEAD = {
    "tie_word_embeddings": True,
    "classifier_bias": False,
    "classifier_activation": "gelu",
    "decoder_bias": True,
}


@dataclass
class ModelFolder:
    """A model read from a folder, with what the folder says about its use."""

    model: SentenceModel
    path: Path
    transformer: Path
    """Where `config.json`, the weights and the tokenizer lie; mostly `path` itself."""
    normalize: bool = False
    """Whether embeddings are scaled to length 1."""
    max_length: int | None = None
    """Tokens per text, special ones included; None if nothing but the model limits it."""
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    """Which of `prompts` is used when none is asked for."""
    random_head: bool = False
    """The pooling has a dense layer for which the folder has no weights."""
    flow: Path | None = None
    """The folder of a flow that was fitted to the vectors of this model."""


def resolve(name_or_path: str | Path) -> Path:
    """A local folder, a run's export, or the local copy of a model on the Hugging Face hub.

    Downloads only JSON, text and safetensors files, and nothing if HF_HUB_OFFLINE is set.

    Raises:
        SimjaxError: neither a folder nor a model that can be had, or a run without an export.
    """
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return _of_run(path)
    name = str(name_or_path)
    if path.exists():
        what = "an archive; unpack it and" if is_archive(name) else "a file;"
        raise SimjaxError(f"{name}: is {what} give the model's folder or a hub id")
    if name.startswith(("/", "./", "../", "~")) or name.count("/") > 1:
        raise SimjaxError(f"{name}: no such folder")
    # The hub's client takes a second to import, and a local folder does not need it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(name, allow_patterns=_WANTED, ignore_patterns=_UNWANTED)
    except HFValidationError as error:
        raise SimjaxError(f"{name}: neither a folder nor a hub id") from error
    except LocalEntryNotFoundError as error:
        raise SimjaxError(
            f"{name}: no such folder, and no such model in the hub's local cache; "
            f"check the name, the network and HF_HUB_OFFLINE"
        ) from error
    except OSError as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise SimjaxError(f"{name}: cannot be had from the hub ({reason[0]})") from error
    return Path(found)


def _of_run(path: Path) -> Path:
    """The exported model of a run folder; any other path as it is."""
    if (path / "config.json").is_file() or not (path / "config.yaml").is_file():
        return path
    if not (path / "export" / "config.json").is_file():
        raise SimjaxError(
            f"{path}: a run without an exported model; write one with"
            f" `simjax export {path} {path / 'export'}`"
        )
    return path / "export"


def load(
    folder: str | Path,
    *,
    pooling: Pooling | None = None,
    dtype: DTypeLike = jnp.float32,
    dropout: float | None = None,
    random_head: bool = False,
    seed: int = 0,
) -> ModelFolder:
    """Read a transformers folder or a sentence-transformers folder.

    Args:
        folder: Holds `config.json` and `model.safetensors`, or a `modules.json` that says where.
        pooling: None takes the folder's, or mean if it names none. Another one than the folder's
            replaces its pooling, its Dense modules and its flow. `cls_mlp` and `cls_linear` take
            their dense layer from the folder's Dense module; `cls_mlp` takes it otherwise from the
            checkpoint of SimCSE's code or from BERT's pooler.
        dtype: Compute in float32 or bfloat16; parameters are float32 in any case.
        dropout: Replaces both rates of `config.json`.
        random_head: Draw the pooling's dense layer anew, as SimCSE does before training.
        seed: Seeds what the folder does not have.

    Raises:
        SimjaxError: a file or tensor is missing, malformed, mis-shaped, of another model or in a
            format other than safetensors. The message names file and tensor.
        UsageError: no such pooling, or a dropout rate that 8-bit draws cannot give.
    """
    folder = Path(folder)
    if pooling is not None and pooling not in get_args(Pooling):
        raise UsageError(f"pooling {pooling!r}: choose from {', '.join(get_args(Pooling))}")
    described = describe(folder)
    config_path = described.transformer / "config.json"
    config = config_from_hf(read_json_object(config_path), config_path)
    if dropout is not None:
        config = dataclasses.replace(config, hidden_dropout=dropout, attention_dropout=dropout)

    tensors = TensorFolder(described.transformer)
    present = {names.modern(name): name for name in tensors}
    prefix = names.prefix_of(config.family, set(present), tensors.path)
    extra = names.unexpected(config, set(tensors), prefix)
    if extra:
        more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
        raise SimjaxError(
            f"{tensors.path}: tensor {extra[0]}{more} has no place in the model that "
            f"{config_path} describes"
        )

    def read(name: str, shape: tuple[int, ...]) -> np.ndarray:
        name = prefix + name
        return tensors.read(present.get(name, name), shape, str(config_path))

    pooling = pooling or described.pooling or "mean"
    own, heads = dense_modules(described, pooling)
    wanted = pooler_head(pooling, config.hidden_size)
    if wanted is not None and own is None and pooling == "cls_mlp":
        own = _checkpoint_head(tensors, prefix, config, str(config_path))
    own = None if random_head else own

    # First of all: `config.json` may ask for what no memory holds, and the tensors' shapes show it.
    params: Params = {"encoder": names.encoder_params(config, read)}
    shapes = tuple(head_config(head) for head in heads)
    _check_chain(shapes, config.hidden_size, folder)
    abstract = nnx.eval_shape(
        lambda: SentenceModel(config, pooling, dtype=dtype, heads=shapes, rngs=nnx.Rngs(seed))
    )
    graphdef, _ = split(abstract)
    for number, head in enumerate(heads):
        params[f"head_{number}"] = _head_params(head)
    if wanted is not None and own is not None:
        params["pooler"] = _head_params(own)
    elif wanted is not None:
        width, stddev = config.hidden_size, config.initializer_range
        normal = jax.random.normal(jax.random.key(seed), (width, width), jnp.float32)
        params["pooler"] = {"kernel": stddev * normal, "bias": jnp.zeros(width, jnp.float32)}
    max_length = described.max_length
    return ModelFolder(
        model=merge(graphdef, jax.tree.map(jnp.asarray, params)),
        path=folder,
        transformer=described.transformer,
        normalize=described.normalize,
        max_length=None if max_length is None else min(max_length, config.max_positions),
        prompts=described.prompts,
        default_prompt=described.default_prompt,
        random_head=wanted is not None and own is None,
        flow=described.flow if pooling == (described.pooling or "mean") else None,
    )


def load_lm_head(folder: str | Path, config: EncoderConfig) -> Params | None:
    """Parameters of the head that a folder's masked tokens were predicted by, None without one.

    Raises:
        SimjaxError: as of `load`.
    """
    described = describe(Path(folder))
    tensors = TensorFolder(described.transformer)
    present = {names.modern(name): name for name in tensors}
    if f"{names.NAMES[config.family].lm_head[0]}.weight" not in present:
        return None
    because = str(described.transformer / "config.json")
    content = read_json_object(described.transformer / "config.json")
    for key, wanted in _LM_HEAD.items():
        if content.get(key, wanted) != wanted:
            raise SimjaxError(
                f"{because}: {key} is {content[key]}: its head for masked tokens is of another "
                f"kind than those that are read ({key} {wanted}); remove objective.mlm or "
                "objective.seq2seq"
            )
    return names.lm_head_params(
        config, lambda name, shape: tensors.read(present.get(name, name), shape, because)
    )


def state_dict(model: SentenceModel) -> dict[str, np.ndarray]:
    """The encoder as float32 tensors under Hugging Face's names, ready for `model.safetensors`.

    `transformers.AutoModel` gives most families a pooler behind the encoder and draws it at
    random where the file has none. The file gets `cls_mlp`'s dense layer there, which is what
    SimCSE's published models do, and zeros for other poolings, which have none.
    """
    _, params = split(model)
    config = model.config
    tensors = names.encoder_tensors(config, params["encoder"])
    pooler = names.NAMES[config.family].pooler
    if pooler is not None:
        shape = (config.hidden_size, config.hidden_size)
        weight, bias = np.zeros(shape, np.float32), np.zeros(shape[:1], np.float32)
        if model.pooling == "cls_mlp":
            own = model.pooler.weights()
            weight, bias = own.weight, bias if own.bias is None else own.bias
        tensors |= {f"{pooler}.weight": weight, f"{pooler}.bias": bias}
    return tensors


def dense_modules(
    described: Described, pooling: Pooling
) -> tuple[HeadWeights | None, tuple[HeadWeights, ...]]:
    """The folder's Dense modules: the one that is the pooling's own, and those that follow."""
    if pooling == described.pooling:
        return None, described.heads
    wanted = pooler_head(pooling, 0)
    if wanted is not None and described.pooling == "cls" and described.heads:
        first, *rest = described.heads
        square = first.weight.shape[0] == first.weight.shape[1]
        if first.activation == wanted.activation and square and first.bias is not None:
            return first, tuple(rest)
    return None, ()


def _checkpoint_head(
    tensors: TensorFolder, prefix: str, config: EncoderConfig, because: str
) -> HeadWeights | None:
    pooler, width = names.NAMES[config.family].pooler, config.hidden_size
    for name in (names.SIMCSE_HEAD, None if pooler is None else prefix + pooler):
        if name is not None and f"{name}.weight" in tensors:
            return HeadWeights(
                tensors.read(f"{name}.weight", (width, width), because),
                tensors.read(f"{name}.bias", (width,), because),
                "tanh",
            )
    return None


def head_config(head: HeadWeights) -> HeadConfig:
    """The shape of a dense layer."""
    out_features, in_features = head.weight.shape
    return HeadConfig(in_features, out_features, head.activation, head.bias is not None)


def _head_params(head: HeadWeights) -> Params:
    params = {"kernel": np.ascontiguousarray(head.weight.T)}
    return params if head.bias is None else params | {"bias": head.bias}


def _check_chain(heads: tuple[HeadConfig, ...], width: int, folder: Path) -> None:
    for number, head in enumerate(heads, start=1):
        if head.in_features != width:
            raise SimjaxError(
                f"{folder / 'modules.json'}: Dense module {number} takes {head.in_features} "
                f"features and gets {width}"
            )
        width = head.out_features
