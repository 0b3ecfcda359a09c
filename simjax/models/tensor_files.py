"""Reading safetensors files, whole or in parts, with errors that name file and tensor."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from simjax.errors import SimjaxError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "tf_model.h5")


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        SimjaxError: it is missing, or is not JSON; with the line.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SimjaxError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise SimjaxError(f"{path}: is not UTF-8 text ({error.reason})") from error
    except json.JSONDecodeError as error:
        raise SimjaxError(f"{path}:{error.lineno}: is not JSON ({error.msg})") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """The content of a JSON file that holds an object.

    Raises:
        SimjaxError: as `read_json`, or it holds something else.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise SimjaxError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


class TensorFolder:
    """The tensors of a folder's `model.safetensors`, or of the parts its index lists."""

    def __init__(self, folder: Path) -> None:
        """Open the files.

        Raises:
            SimjaxError: there is no safetensors file (pickles are never read), a part is
                missing, or a file is damaged.
        """
        self._files: dict[str, Path] = {}
        self._open: dict[Path, Any] = {}
        if (folder / SINGLE).is_file():
            self.path = folder / SINGLE
            self._files = dict.fromkeys(self._names_in(self.path), self.path)
        elif (folder / INDEX).is_file():
            self.path = folder / INDEX
            listed = read_json_object(self.path).get("weight_map")
            if not isinstance(listed, dict):
                raise SimjaxError(f"{self.path}: has no weight_map")
            for name, part in listed.items():
                # Parts lie beside their index; a path that leaves the folder is not followed.
                path = folder / Path(str(part)).name
                if name not in self._names_in(path):
                    raise SimjaxError(f"{path}: tensor {name} is missing, though {INDEX} lists it")
                self._files[name] = path
        else:
            pickles = [name for name in _PICKLES if (folder / name).exists()]
            if pickles:
                raise SimjaxError(
                    f"{folder / pickles[0]}: only safetensors are read; convert it with "
                    f"transformers' save_pretrained, which writes {SINGLE}"
                )
            raise SimjaxError(f"{folder / SINGLE}: no such file; the folder holds no weights")

    def _handle(self, path: Path) -> Any:
        if path not in self._open:
            try:
                self._open[path] = safe_open(path, framework="np")
            except (OSError, SafetensorError) as error:
                raise SimjaxError(f"{path}: cannot be read as safetensors ({error})") from error
        return self._open[path]

    def _names_in(self, path: Path) -> list[str]:
        return list(self._handle(path).keys())

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def read(self, name: str, shape: tuple[int, ...], because: str) -> np.ndarray:
        """One tensor in float32.

        Args:
            name: Its name in the file.
            shape: What it must have.
            because: Where that shape comes from, for the error.

        Raises:
            SimjaxError: the tensor is missing, mis-shaped, not of floats, or not finite.
        """
        if name not in self._files:
            raise SimjaxError(f"{self.path}: tensor {name} is missing")
        path = self._files[name]
        handle = self._handle(path)
        found = tuple(handle.get_slice(name).get_shape())
        if found != shape:
            raise SimjaxError(
                f"{path}: tensor {name} has shape {list(found)}, but {because} asks for "
                f"{list(shape)}"
            )
        kind = handle.get_slice(name).get_dtype()
        if kind not in ("F64", "F32", "F16", "BF16"):
            raise SimjaxError(f"{path}: tensor {name} is {kind}, not floating point")
        array = handle.get_tensor(name).astype(np.float32)
        if not np.isfinite(array).all():
            raise SimjaxError(f"{path}: tensor {name} has values that are not finite")
        return array
