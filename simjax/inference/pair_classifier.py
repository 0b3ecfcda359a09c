"""Which class two texts are of, by the layer that `objective.name softmax` trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from simjax.errors import SimjaxError
from simjax.objectives.classification import SoftmaxClassification
from simjax.types import Params

if TYPE_CHECKING:
    from simjax.sentence_encoder import SentenceEncoder

_TOLD = 8
"""Classes that a complaint lists."""


class PairClassifier:
    """The layer over (u, v, |u - v|), and the encoder that it was trained with."""

    def __init__(
        self, encoder: SentenceEncoder, objective: SoftmaxClassification, params: Params
    ) -> None:
        """Put the parts together.

        Args:
            encoder: Makes u and v.
            objective: Knows the classes, and which compete.
            params: The objective's.
        """
        self._encoder, self._objective, self._params = encoder, objective, params

    def __call__(self, pairs: Sequence[tuple[str, str]], labels: Sequence[str]) -> list[str]:
        """For each pair the likeliest class of those in its label's space.

        Raises:
            SimjaxError: A label is no class that was trained.
        """
        classes = self._objective.classes
        number = {name: place for place, name in enumerate(classes)}
        for label in labels:
            if label not in number:
                some = ", ".join(map(repr, classes[:_TOLD]))
                more = f" and {len(classes) - _TOLD} more" if len(classes) > _TOLD else ""
                raise SimjaxError(
                    f"the label {label!r} is none of the classes that are learned: {some}{more}"
                )
        place: dict[str, int] = {}
        both = np.asarray([[place.setdefault(text, len(place)) for text in pair] for pair in pairs])
        # As in training: vectors as they come out of the pooling.
        vectors = self._encoder.encode(list(place), normalize=False)
        found = self._objective.likeliest(
            self._params, vectors[both], jnp.asarray([number[label] for label in labels])
        )
        return [classes[place] for place in np.asarray(found)]
