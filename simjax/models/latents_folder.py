"""Latents in a model's folder: a folder of its own with their settings and their tensors."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from simjax.errors import SimjaxError, UsageError
from simjax.models.config import EncoderConfig
from simjax.models.latents import Latents, LatentsConfig
from simjax.models.module_folders import CONFIG
from simjax.models.sentence_model import merge, split
from simjax.models.tensor_files import SINGLE, TensorFolder, read_json_object


def write(folder: Path, latents: Latents) -> None:
    """Make the folder.

    Raises:
        OSError: It is there, or cannot be written.
    """
    folder.mkdir()
    settings = dataclasses.asdict(latents.config)
    (folder / CONFIG).write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
    _, params = split(latents)
    tensors = {_name(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(params)}
    save_file(tensors, folder / SINGLE)


def _name(path: tuple[Any, ...]) -> str:
    return ".".join(jax.tree_util.keystr((key,), simple=True) for key in path)


def read(folder: Path, encoder: EncoderConfig) -> Latents:
    """Latents that anybody may have written.

    Args:
        folder: Theirs.
        encoder: Shape of the encoder beside them.

    Raises:
        SimjaxError: A setting or tensor is missing, malformed, mis-shaped, left over or not finite,
            or they do not fit the encoder.
    """
    path = folder / CONFIG
    config = _config(path, read_json_object(path))
    try:
        abstract = nnx.eval_shape(lambda: Latents(config, encoder, rngs=nnx.Rngs(0)))
    except UsageError as error:
        raise SimjaxError(f"{path}: {error}") from error
    graphdef, shapes = split(abstract)
    tensors = TensorFolder(folder)
    wanted = {_name(key) for key, _ in jax.tree.leaves_with_path(shapes)}
    extra = sorted(set(tensors) - wanted)
    if extra:
        raise SimjaxError(f"{tensors.path}: tensor {extra[0]} has no place among latents")
    params = jax.tree_util.tree_map_with_path(
        lambda key, leaf: jnp.asarray(tensors.read(_name(key), leaf.shape, str(path))), shapes
    )
    return merge(graphdef, params)


def _config(path: Path, content: dict[str, Any]) -> LatentsConfig:
    fields: dict[str, tuple[tuple[type, ...], str]] = {
        "kind": ((str,), "a word"),
        "layers": ((int,), "a whole number"),
        "size": ((int,), "a whole number"),
        "kappa": ((float, int), "a number"),
    }
    for name, (kinds, what) in fields.items():
        if type(content.get(name)) not in kinds:
            raise SimjaxError(f"{path}: {name} is {content.get(name)!r}, not {what}")
    unknown = sorted(set(content) - set(fields))
    if unknown:
        raise SimjaxError(f"{path}: {unknown[0]!r} is no setting of latents")
    try:
        return LatentsConfig(**content)
    except UsageError as error:
        raise SimjaxError(f"{path}: {error}") from error
