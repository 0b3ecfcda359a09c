"""PyTorch and sentence-transformers, where they are installed, as their own code uses them."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

from simjax.lab.bench.machine import cores

Products = Literal["exact", "as jax"]


@dataclass(frozen=True)
class Torch:
    """PyTorch on the kind of device that JAX uses.

    Attributes:
        torch: The module.
        device: `cpu` or `cuda`.
    """

    torch: Any
    device: str

    def wait(self) -> None:
        """Wait for what is queued."""
        if self.device == "cuda":
            self.torch.cuda.synchronize()


def find_torch(notes: list[str], products: Products = "exact") -> Torch | None:
    """PyTorch with all cores, or None and a note that says why not.

    Args:
        notes: Gets the note.
        products: On a GPU, `as jax` lets float32 products use TF32, as JAX's do by default.
    """
    import jax

    try:
        torch = importlib.import_module("torch")
    except ImportError:
        notes.append("PyTorch skipped: not installed; `pip install simjax[test]` brings it")
        return None
    backend = jax.default_backend()
    if backend == "cpu":
        device = "cpu"
    elif backend in ("gpu", "cuda") and torch.cuda.is_available():
        device = "cuda"
        torch.set_float32_matmul_precision("highest" if products == "exact" else "high")
    else:
        notes.append(f"PyTorch skipped: JAX runs on {backend}, which this PyTorch cannot use")
        return None
    torch.set_num_threads(cores())
    return Torch(torch, device)


def find_sentence_transformers(notes: list[str]) -> Torch | None:
    """PyTorch if sentence-transformers is there as well, or None and a note."""
    torch = find_torch(notes, "as jax")
    if torch is None:
        return None
    try:
        importlib.import_module("sentence_transformers")
        importlib.import_module("transformers").utils.logging.disable_progress_bar()
    except ImportError:
        notes.append(
            "sentence-transformers skipped: not installed; `pip install simjax[test]` brings it"
        )
        return None
    return torch


class PeerEncoder:
    """sentence-transformers' own `encode`."""

    def __init__(self, torch: Torch, folder: Path, dtype: str) -> None:
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(
            str(folder),
            device=torch.device,
            local_files_only=True,
            model_kwargs={"dtype": getattr(torch.torch, dtype)},
        )
        self._wait = torch.wait

    def encode(self, sentences: Sequence[str], batch_size: int) -> Float32[np.ndarray, "N D"]:
        """Embeddings as float32 NumPy."""
        found = self.model.encode(
            list(sentences),
            batch_size=batch_size,
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        self._wait()
        return np.asarray(found, np.float32)


@dataclass(frozen=True)
class StepOptions:
    """What both sides' training steps have in common."""

    max_length: int
    scale: float = 20.0
    learning_rate: float = 2e-5
    weight_decay: float = 0.01
    clip_norm: float = 1.0


class PeerTrainer:
    """sentence-transformers' training step: its collator, loss and model, PyTorch's AdamW.

    What its Trainer does around that (logging, callbacks, schedules) is left out, in its favour.
    """

    def __init__(self, torch: Torch, folder: Path, dtype: str, options: StepOptions) -> None:
        """Load the model for training.

        Args:
            torch: PyTorch.
            folder: The model.
            dtype: `bfloat16` means autocast, as its `bf16=True` does; parameters are float32.
            options: The step.
        """
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.data_collator import (
            SentenceTransformerDataCollator,
        )
        from sentence_transformers.sentence_transformer.losses import (
            MultipleNegativesRankingLoss,
        )

        self._torch = torch
        self._clip = options.clip_norm
        self._bfloat16 = dtype == "bfloat16"
        model = SentenceTransformer(
            str(folder),
            device=torch.device,
            local_files_only=True,
            model_kwargs={"dtype": torch.torch.float32},
        )
        model.max_seq_length = options.max_length
        model.train()
        self.model = model
        self.loss = MultipleNegativesRankingLoss(model, scale=options.scale)
        self.collate = SentenceTransformerDataCollator(preprocess_fn=model.preprocess)
        decayed: list[Any] = []
        others: list[Any] = []
        for name, parameter in model.named_parameters():
            kept = name.endswith("bias") or "LayerNorm" in name
            (others if kept else decayed).append(parameter)
        self.optimizer = torch.torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": options.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=options.learning_rate,
            fused=True,
        )
        self.tokens = 0
        """Tokens computed by the last step, padding included."""

    def step(self, batch: Sequence[Sequence[str]]) -> float:
        """Tokenise a batch of examples, each its texts, update, and return the loss."""
        torch = self._torch.torch
        rows = [{f"view_{number}": text for number, text in enumerate(row)} for row in batch]
        inputs = self.collate(rows)
        features = [_column(inputs, f"view_{number}_") for number in range(len(batch[0]))]
        features = [
            {key: _to(value, self._torch.device) for key, value in column.items()}
            for column in features
        ]
        shapes = [column["input_ids"].shape for column in features]
        # Columns go through the encoder in one call, padded to the longest text of any.
        self.tokens = sum(rows for rows, _ in shapes) * max(length for _, length in shapes)
        bfloat16 = torch.autocast(self._torch.device, torch.bfloat16)
        with bfloat16 if self._bfloat16 else nullcontext():
            loss = self.loss(features, None)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._torch.wait()
        return float(loss.detach())


def _column(inputs: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {key[len(prefix) :]: v for key, v in inputs.items() if key.startswith(prefix)}


def _to(value: Any, device: str) -> Any:
    return value.to(device) if hasattr(value, "to") else value
