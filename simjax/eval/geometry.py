"""How embeddings lie on the sphere: unit vectors, singular values, effective rank.

Alignment and uniformity are `simjax.ops.align_uniform`.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from simjax.errors import NotFiniteError, SimjaxError


def unit_rows(embeddings: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    """Rows scaled to length 1, as float32; a zero row stays zero.

    Raises:
        NotFiniteError: An embedding is not finite.
    """
    wide = np.asarray(embeddings, np.float64)
    if wide.ndim != 2:
        raise SimjaxError(f"embeddings have shape {wide.shape}, not [texts, width]")
    broken = int(np.count_nonzero(~np.isfinite(wide).all(axis=1)))
    if broken:
        raise NotFiniteError(f"{broken} of {len(wide)} embeddings are not finite")
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return (wide / np.where(norms > 0, norms, 1.0)).astype(np.float32)


def singular_values(unit: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "D"]:
    """Singular values of the embedding matrix, largest first, in float64.

    Taken from the ``D x D`` Gram matrix, so that any number of rows can be judged.
    """
    gram = np.zeros((unit.shape[1], unit.shape[1]), np.float64)
    for top in range(0, len(unit), 8192):
        rows = unit[top : top + 8192].astype(np.float64)
        gram += rows.T @ rows
    return np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[::-1], 0.0))


def effective_rank(values: Float[np.ndarray, "D"]) -> float:
    """Exponential of the entropy of the normalised singular values (Roy & Vetterli 2007).

    Returns:
        A number from 1 (all embeddings on one line) to the number of values.
    """
    total = float(values.sum())
    if total <= 0.0:
        return 0.0
    share = values / total
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))
