"""What a model writes texts with, beside its encoder: the head, in a folder of our own.

sentence-transformers and transformers load the folder around it without it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from simjax.errors import SimjaxError
from simjax.models import latents_folder, module_folders, names
from simjax.models.config import EncoderConfig
from simjax.models.latents import Latents
from simjax.models.lm_head import LanguageModelHead
from simjax.models.sentence_model import merge, split
from simjax.models.tensor_files import SINGLE, TensorFolder, read_json_object
from simjax.types import Params

Predicts: TypeAlias = Literal["paraphrases", "reconstruction"]
HEAD, LATENTS = "lm_head", "latents"
"""What the parameters of a decoder's parts are called, in training, too."""
_SHORTEST = 3
"""Tokens of a text of one token, with those in front and behind."""


@dataclass(frozen=True)
class Decoder:
    """The head that says which token comes next in the second of two texts.

    Attributes:
        head: The head, whose table is the encoder's.
        text_length: Tokens that each of two texts is cut at by itself, special tokens included.
        latents: All that it knows of the text in front; None where it sees that text itself.
    """

    head: LanguageModelHead
    text_length: int
    latents: Latents | None = None

    @property
    def predicts(self) -> Predicts:
        """What stands behind a text."""
        return "paraphrases" if self.latents is None else "reconstruction"

    @property
    def max_tokens(self) -> int:
        """Most tokens of two texts one behind the other."""
        return 2 * self.text_length - (1 if self.latents is None else 0)

    @property
    def params(self) -> dict[str, Params]:
        """The parameters of its parts, by the names that they have in training."""
        parts = {HEAD: self.head, LATENTS: self.latents}
        return {name: split(part)[1] for name, part in parts.items() if part is not None}

    def with_params(self, params: Mapping[str, Params]) -> Decoder:
        """The same with other parameters."""
        head = merge(split(self.head)[0], params[HEAD])
        if self.latents is None:
            return replace(self, head=head)
        return replace(self, head=head, latents=merge(split(self.latents)[0], params[LATENTS]))


def write(folder: Path, decoder: Decoder) -> None:
    """Write the folders of a decoder into that of its model.

    Raises:
        OSError: They are there, or cannot be written.
    """
    place = folder / "decoder"
    place.mkdir()
    shape = decoder.head.config
    settings = {"text_length": decoder.text_length, **_fixed(decoder.predicts, shape)}
    (place / module_folders.CONFIG).write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
    tensors = names.lm_head_tensors(shape, decoder.params[HEAD])
    save_file(tensors, place / SINGLE, {"format": "pt"})
    if decoder.latents is not None:
        latents_folder.write(folder / "latents", decoder.latents)


def folders(decoder: Decoder | None) -> tuple[module_folders.Own, ...]:
    """Those that `write` makes."""
    if decoder is None:
        return ()
    return ("decoder",) if decoder.latents is None else ("decoder", "latents")


def _fixed(predicts: Predicts, shape: EncoderConfig) -> dict[str, Any]:
    return {
        "predicts": predicts,
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
    own = module_folders.find(folder)
    place = own.get("decoder")
    if place is None:
        if "latents" in own:
            raise SimjaxError(f"{own['latents']}: latents without the decoder that reads them")
        return None
    path = place / module_folders.CONFIG
    latents = latents_folder.read(own["latents"], shape) if "latents" in own else None
    predicts: Predicts = "paraphrases" if latents is None else "reconstruction"
    text_length = _settings(path, shape, predicts)
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
    head = merge(split(abstract)[0], jax.tree.map(jnp.asarray, params))
    return Decoder(head, text_length, latents)


def _settings(path: Path, shape: EncoderConfig, predicts: Predicts) -> int:
    """The only setting that is not fixed: the longest text."""
    content = read_json_object(path)
    wanted = _fixed(predicts, shape)
    for key in (*wanted, "text_length"):
        if key not in content:
            raise SimjaxError(f"{path}: {key} is missing")
    unknown = sorted(set(content) - {*wanted, "text_length"})
    if unknown:
        raise SimjaxError(f"{path}: {unknown[0]!r} is no setting of a decoder")
    if content["predicts"] == "reconstruction" != predicts:
        raise SimjaxError(f"{path}: predicts reconstruction, and the model names no latents")
    for key, value in wanted.items():
        if type(content[key]) is not type(value) or content[key] != value:
            raise SimjaxError(
                f"{path}: {key} is {content[key]!r}, and for the encoder beside it it is {value!r}"
            )
    if not shape.two_segments:
        raise SimjaxError(f"{path}: the encoder beside it has no two token types")
    length = content["text_length"]
    if type(length) is not int or length < _SHORTEST:
        raise SimjaxError(
            f"{path}: text_length is {length!r}: a whole number of at least {_SHORTEST} is wanted"
        )
    # A paraphrase's places count on from those of the text in front.
    places = 2 * length - 1 if predicts == "paraphrases" else length
    if places > shape.max_positions:
        raise SimjaxError(
            f"{path}: text_length is {length}, which takes {places} places, and the encoder has "
            f"{shape.max_positions} positions"
        )
    return length
