"""An encoder with a whitening behind it, fitted on any number of sentences in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from simjax.errors import UsageError
from simjax.eval.moments import Moments
from simjax.postprocess.whitening import Whitening, whitening

if TYPE_CHECKING:
    from simjax.sentence_encoder import SentenceEncoder


def whitened(
    encoder: SentenceEncoder,
    sentences: Iterable[str],
    *,
    dimension: int | None = None,
    batch_size: int | None = None,
    advance: Callable[[int], None] = lambda rows: None,
) -> tuple[SentenceEncoder, Whitening]:
    """Fit a whitening to what the encoder gives before it is scaled, and put it behind that.

    Args:
        encoder: The model.
        sentences: Read once, in bounded memory; those of white space alone are left out.
        dimension: Dimensions that are kept; None keeps all that are in use.
        batch_size: See `SentenceEncoder.encode`.
        advance: Told of every number of sentences more.

    Returns:
        The encoder with the whitening as its last dense layer (scaled to unit vectors if it was
        before), and the whitening.

    Raises:
        UsageError: `dimension` is below 1 or above the model's width, or as of `check_open`.
        SimjaxError: The sentences are too few, or too much alike, for so many dimensions.
    """
    check_open(encoder)
    width = encoder.model.embedding_size
    if dimension is not None and not 1 <= dimension <= width:
        raise UsageError(f"dimension {dimension}: embeddings have {width}; choose from 1 to that")

    def parts() -> Iterator[Float32[np.ndarray, "n D"]]:
        yield np.zeros((0, width), np.float32)  # without sentences there are none of these
        written = (text for text in sentences if text.strip())
        for rows in encoder.encode_stream(written, batch_size=batch_size, normalize=False):
            advance(len(rows))
            yield rows

    found = whitening(Moments.of_stream(parts()), dimension)
    model = encoder.model
    model.append(found.layer)
    return encoder.rebuilt(model), found


def check_open(encoder: SentenceEncoder) -> None:
    """Refuse a model behind whose embeddings nothing can be put.

    Raises:
        UsageError: It has a flow, or its embeddings are latents.
    """
    if encoder.latents is not None:
        raise UsageError(
            "the embeddings are latents, and post-processing stands behind what is pooled; leave "
            "--latents (in Python pooling latents) out"
        )
    if encoder.flow is not None:
        raise UsageError(
            "the model has a flow, behind which nothing can be put; take the model that the flow "
            "was fitted on"
        )
