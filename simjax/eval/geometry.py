"""How embeddings lie on the sphere: alignment, uniformity, singular values, effective rank."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int

from simjax.errors import SimjaxError


def unit_rows(embeddings: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    """Rows scaled to length 1, as float32; a zero row stays zero.

    Raises:
        SimjaxError: An embedding is not finite.
    """
    wide = np.asarray(embeddings, np.float64)
    if wide.ndim != 2:
        raise SimjaxError(f"embeddings have shape {wide.shape}, not [texts, width]")
    broken = int(np.count_nonzero(~np.isfinite(wide).all(axis=1)))
    if broken:
        raise SimjaxError(f"{broken} of {len(wide)} embeddings are not finite")
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return (wide / np.where(norms > 0, norms, 1.0)).astype(np.float32)


def alignment(
    unit: Float[np.ndarray, "T D"], positives: Int[np.ndarray, "N 2"], alpha: float = 2.0
) -> float:
    """Mean distance of positive pairs, ``mean |x - y|^alpha`` (Wang & Isola 2020).

    Args:
        unit: Unit embeddings.
        positives: Index pairs into them; not empty.
        alpha: Exponent.

    Returns:
        A number from 0 (pairs coincide) to ``2^alpha``.
    """
    difference = unit[positives[:, 0]].astype(np.float64) - unit[positives[:, 1]]
    square = np.einsum("nd,nd->n", difference, difference)
    return float(np.mean(square ** (alpha / 2)))


def uniformity(unit: Float[np.ndarray, "N D"], t: float = 2.0, tile: int = 1024) -> float:
    """``log mean over i < j of exp(-t |x_i - x_j|^2)`` (Wang & Isola 2020).

    Products are made tile by tile in float32 and summed in float64; memory is
    ``O(N D + tile^2)``.

    Args:
        unit: Unit embeddings of distinct texts, at least two.
        t: Inverse width of the Gaussian kernel.
        tile: Rows per tile.

    Returns:
        A number from ``-4 t`` to 0; lower is more uniform, and 0 is a collapse to one point.
    """
    count = len(unit)
    if count < 2:
        raise SimjaxError(f"uniformity needs at least 2 distinct texts, got {count}")
    total = 0.0
    for top in range(0, count, tile):
        rows = unit[top : top + tile]
        for left in range(top, count, tile):
            # |x - y|^2 = 2 - 2 x.y on the sphere. Rounding can push the product over 1.
            square = 2.0 - 2.0 * np.minimum(rows @ unit[left : left + tile].T, 1.0)
            kernel = np.exp(-t * square)
            if left == top:
                kernel = np.triu(kernel, 1)
            total += float(kernel.sum(dtype=np.float64))
    return math.log(total / (count * (count - 1) / 2)) if total > 0 else -4.0 * t


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
