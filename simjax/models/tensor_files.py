"""Reading safetensors files, whole or in parts, with errors that name file and tensor."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from simjax.errors import SimjaxError
from simjax.models.model_files import SETTINGS_BYTES, check_file, check_safetensors, is_archive

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "tf_model.h5")


def read_json(path: Path) -> Any:
    """The content of a JSON file of a model folder.

    Raises:
        SimjaxError: it is missing, is not to be opened (`check_file`), or is not JSON; with the
            line.
    """
    check_file(path, SETTINGS_BYTES)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SimjaxError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise SimjaxError(f"{path}: is not UTF-8 text ({error.reason})") from error
    except json.JSONDecodeError as error:
        raise SimjaxError(f"{path}:{error.lineno}: is not JSON ({error.msg})") from error
    except RecursionError as error:
        raise SimjaxError(f"{path}: is not JSON that can be read (nested too deeply)") from error
    except ValueError as error:  # a number of thousands of digits
        raise SimjaxError(f"{path}: is not JSON that can be read ({error})") from error


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
                missing or not beside its index, or a file is damaged or not to be opened.
        """
        self._files: dict[str, Path] = {}
        self._open: dict[Path, Any] = {}
        if os.path.lexists(folder / SINGLE):
            self.path = folder / SINGLE
            self._files = dict.fromkeys(self._names_in(self.path), self.path)
        elif os.path.lexists(folder / INDEX):
            self.path = folder / INDEX
            listed = read_json_object(self.path).get("weight_map")
            if not isinstance(listed, dict):
                raise SimjaxError(f"{self.path}: has no weight_map")
            names: dict[Path, set[str]] = {}
            for name, part in listed.items():
                plain = isinstance(part, str) and part not in ("", "..") and "\0" not in part
                if not plain or Path(part).name != part:
                    raise SimjaxError(
                        f"{self.path}: tensor {name} is said to be in {part!r}; parts are files "
                        "that lie beside their index"
                    )
                path = folder / part
                if path not in names:
                    names[path] = set(self._names_in(path))
                if name not in names[path]:
                    raise SimjaxError(f"{path}: tensor {name} is missing, though {INDEX} lists it")
                self._files[name] = path
        else:
            pickles = [name for name in _PICKLES if (folder / name).exists()]
            if pickles:
                raise SimjaxError(
                    f"{folder / pickles[0]}: only safetensors are read; convert it with "
                    f"transformers' save_pretrained, which writes {SINGLE}"
                )
            archives = sorted(p.name for p in folder.glob("*") if is_archive(p.name))
            mend = f"; unpack {archives[0]} first" if archives else ""
            raise SimjaxError(f"{folder / SINGLE}: no such file; the folder holds no weights{mend}")

    def _handle(self, path: Path) -> Any:
        if path not in self._open:
            check_safetensors(path)
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
        path, handle = self._of_shape(name, shape, because)
        kind = handle.get_slice(name).get_dtype()
        if kind not in ("F64", "F32", "F16", "BF16"):
            raise SimjaxError(f"{path}: tensor {name} is {kind}, not floating point")
        with np.errstate(over="ignore"):  # float64 beyond float32 is infinite, which is told below
            array = handle.get_tensor(name).astype(np.float32)
        if not np.isfinite(array).all():
            raise SimjaxError(f"{path}: tensor {name} has values that are not finite")
        return array

    def read_permutations(self, name: str, shape: tuple[int, ...], because: str) -> np.ndarray:
        """A tensor of int32, each of whose rows holds the numbers below its length, each once.

        Arguments are those of `read`.

        Raises:
            SimjaxError: the tensor is missing, mis-shaped, of another type, or holds other numbers.
        """
        path, handle = self._of_shape(name, shape, because)
        kind = handle.get_slice(name).get_dtype()
        if kind != "I32":
            raise SimjaxError(f"{path}: tensor {name} is {kind}, not I32")
        array = handle.get_tensor(name)
        if not np.array_equal(np.sort(array), np.broadcast_to(np.arange(shape[-1]), shape)):
            raise SimjaxError(f"{path}: tensor {name} has rows that are no permutations")
        return array

    def _of_shape(self, name: str, shape: tuple[int, ...], because: str) -> tuple[Path, Any]:
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
        return path, handle
