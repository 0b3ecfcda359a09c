"""A flow in a model's folder: a folder of its own with its shape and its tensors."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from simjax.errors import SimjaxError, UsageError
from simjax.models.module_folders import CONFIG
from simjax.models.tensor_files import SINGLE, TensorFolder, read_json_object
from simjax.postprocess.flow import PERMUTATION, Flow, FlowConfig


def write(folder: Path, flow: Flow) -> None:
    """Make the folder.

    Raises:
        OSError: It is there, or cannot be written.
    """
    folder.mkdir()
    shape = dataclasses.asdict(flow.config)
    (folder / CONFIG).write_text(json.dumps(shape, indent=2) + "\n", "utf-8")
    save_file({name: np.asarray(value) for name, value in flow.tensors.items()}, folder / SINGLE)


def read(folder: Path, width: int) -> Flow:
    """A flow that anybody may have written.

    Args:
        folder: That of the flow.
        width: Dimensions of the vectors that it is put behind.

    Raises:
        SimjaxError: A file or tensor is missing, malformed, mis-shaped, left over or not finite,
            or the flow is for vectors of another width.
    """
    path = folder / CONFIG
    config = _config(path, read_json_object(path))
    if config.width != width:
        raise SimjaxError(f"{path}: a flow over {config.width} dimensions, behind {width}")
    tensors = TensorFolder(folder)
    shapes = config.shapes()
    extra = sorted(set(tensors) - set(shapes))
    if extra:
        raise SimjaxError(f"{tensors.path}: tensor {extra[0]} has no place in a flow")
    found = {}
    for name, shape in shapes.items():
        if name == PERMUTATION:
            found[name] = tensors.read_permutations(name, shape, str(path))
        else:
            found[name] = tensors.read(name, shape, str(path))
    return Flow(config, {name: jnp.asarray(value) for name, value in found.items()})


def _config(path: Path, content: dict[str, Any]) -> FlowConfig:
    fields = {field.name: field for field in dataclasses.fields(FlowConfig)}
    for name in fields:
        wanted = str if name == "coupling" else int
        if type(content.get(name)) is not wanted:
            kind = "a word" if wanted is str else "a whole number"
            raise SimjaxError(f"{path}: {name} is {content.get(name)!r}, not {kind}")
    unknown = sorted(set(content) - set(fields))
    if unknown:
        raise SimjaxError(f"{path}: {unknown[0]} is no part of a flow; a newer simjax may know it")
    try:
        return FlowConfig(**content)
    except UsageError as error:
        raise SimjaxError(f"{path}: {error}") from error
