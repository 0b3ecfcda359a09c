"""What a model writes texts with, beside its encoder: the head, in a folder of our own.

sentence-transformers and transformers load the folder around it without it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from simjax.errors import SimjaxError
from simjax.models import names
from simjax.models.config import EncoderConfig
from simjax.models.lm_head import LanguageModelHead
from simjax.models.sentence_model import merge, split
from simjax.models.tensor_files import TensorFolder, read_json_object
from simjax.types import Params

FOLDER = "decoder"
"""In the folder of the model."""
_KIND = "paraphrases"
_SHORTEST = 5


@dataclass(frozen=True)
class Decoder:
    """The head that says which token comes next in the second of two texts.

    Attributes:
        head: The head, whose table is the encoder's.
        max_tokens: Of two texts one behind the other, as it was trained; special ones included.
    """

    head: LanguageModelHead
    max_tokens: int

    @property
    def text_length(self) -> int:
        """Tokens that each of two texts is cut at by itself, special tokens included."""
        return (self.max_tokens + 1) // 2

    @property
    def params(self) -> Params:
        """The head's parameters."""
        return split(self.head)[1]

    def with_params(self, params: Params) -> Decoder:
        """The same with other parameters."""
        return replace(self, head=merge(split(self.head)[0], params))


def write(folder: Path, decoder: Decoder) -> None:
    """Write `config.json` and `model.safetensors` into a folder that is made."""
    folder.mkdir()
    shape = decoder.head.config
    settings = {"predicts": _KIND, "max_tokens": decoder.max_tokens, **_sizes(shape)}
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
    tensors = names.lm_head_tensors(shape, decoder.params)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _sizes(shape: EncoderConfig) -> dict[str, int]:
    return {
        "hidden_size": shape.hidden_size,
        "embedding_size": shape.embedding_width,
        "vocab_size": shape.vocab_size,
    }


def read(folder: Path, shape: EncoderConfig) -> Decoder | None:
    """The decoder of a model's folder, None without one.

    Args:
        folder: The model's.
        shape: Of its encoder.

    Raises:
        SimjaxError: Settings or tensors are missing, unknown, malformed or of another encoder; or
            something leads out of the folder.
    """
    place = folder / FOLDER
    if not place.is_dir() and not place.is_symlink():
        return None
    if place.is_symlink():
        raise SimjaxError(f"{place}: is a link, which is not followed; put the folder in its place")
    path = place / "config.json"
    content = read_json_object(path)
    wanted = {"predicts": _KIND, **_sizes(shape)}
    for key in (*wanted, "max_tokens"):
        if key not in content:
            raise SimjaxError(f"{path}: {key} is missing")
    unknown = sorted(set(content) - {*wanted, "max_tokens"})
    if unknown:
        raise SimjaxError(f"{path}: {unknown[0]!r} is no setting of a decoder")
    for key, value in wanted.items():
        if type(content[key]) is not type(value) or content[key] != value:
            raise SimjaxError(
                f"{path}: {key} is {content[key]!r}, and for the encoder beside it it is {value!r}"
            )
    if not shape.architecture.token_types or shape.type_vocab_size < 2:
        raise SimjaxError(f"{path}: the encoder beside it has no two token types")
    longest = content["max_tokens"]
    if type(longest) is not int or not _SHORTEST <= longest <= shape.max_positions:
        raise SimjaxError(
            f"{path}: max_tokens is {longest!r}: a whole number from {_SHORTEST} to the encoder's "
            f"{shape.max_positions} positions is wanted"
        )
    tensors = TensorFolder(place)
    seen: set[str] = set()

    def read_tensor(name: str, dimensions: tuple[int, ...]) -> np.ndarray:
        seen.add(name)
        return tensors.read(name, dimensions, str(path))

    params = names.lm_head_params(shape, read_tensor)
    extra = sorted(set(tensors) - seen)
    if extra:
        raise SimjaxError(f"{tensors.path}: tensor {extra[0]} has no place in a decoder")
    abstract = nnx.eval_shape(lambda: LanguageModelHead(shape, rngs=nnx.Rngs(0)))
    return Decoder(merge(split(abstract)[0], jax.tree.map(jnp.asarray, params)), longest)
