"""Scores of an encoder: similarity, retrieval, alignment, uniformity; half of each set chooses.

Learning rates are chosen on one half of the queries and of the STS pairs, and scores are reported
on the other, so that the same pairs do not both choose a rate and judge it. Documents are searched
whole in both, and seeds, trained models included, are the same in both: what is lucky about a seed
is in either half. All arms are scored in float32.
"""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from simjax.eval import geometry
from simjax.eval.retrieval import RetrievalSet
from simjax.eval.retrieval import score as score_retrieval
from simjax.eval.sts import score as score_sts
from simjax.inference import Cutter, calls
from simjax.lab.precision.texts import Corpus, halves
from simjax.models.sentence_model import GraphDef, merge
from simjax.ops import align_uniform, alignment
from simjax.types import Block, Params

MOST_TOKENS = 96 * 64
"""Places in one call of the encoder."""


class Scorer:
    """The held-out texts of a corpus, tokenised and packed once."""

    def __init__(self, corpus: Corpus, cutter: Cutter, graphdef: GraphDef, width: int) -> None:
        """Prepare.

        Args:
            corpus: What is scored.
            cutter: Texts to tokens.
            graphdef: Structure of the float32 model.
            width: Its hidden size.
        """
        self._sts = None if corpus.sts is None else halves(corpus.sts)
        index: dict[str, int] = {}

        def place(texts: list[str]) -> Int[np.ndarray, "N"]:
            return np.asarray([index.setdefault(text, len(index)) for text in texts])

        self._queries = place([anchor for anchor, _ in corpus.held_out])
        self._documents = place([positive for _, positive in corpus.held_out])
        self._sts_places = [place(half.texts) for half in self._sts or ()]
        documents = [positive for _, positive in corpus.held_out]
        self._retrieval = [
            RetrievalSet(
                [anchor for anchor, _ in corpus.held_out[start::2]],
                documents,
                [{place: 1.0} for place in range(start, len(documents), 2)],
            )
            for start in (0, 1)
        ]
        tokens, lengths = cutter(list(index))
        self._calls = list(calls(tokens, lengths, width=width, most_tokens=MOST_TOKENS))
        self._count = len(index)

        def forward(params: Params, block: Block) -> Float[Array, "T D"]:
            return merge(graphdef, params)(block)

        self._forward = jax.jit(forward)

    @property
    def names(self) -> list[str]:
        """Of the scores."""
        tasks = ["ndcg@10"] if self._sts is None else ["ndcg@10", "spearman"]
        return [*(f"select/{name}" for name in tasks), *tasks, "alignment", "uniformity"]

    def _embed(self, params: Params) -> Float[np.ndarray, "T D"]:
        started = [(call.texts, self._forward(params, call.block)) for call in self._calls]
        found = np.empty((self._count, started[0][1].shape[-1]), np.float32)
        for texts, values in started:
            found[texts] = np.asarray(values)[: len(texts)]
        return found

    def __call__(self, params: Params) -> dict[str, float] | None:
        """All scores of a model.

        Returns:
            `select/...` of the half that chooses, the others of the half that is reported:
            `ndcg@10` of held-out pairs, `spearman` of STS-B dev where there is one, both times
            100; `alignment` of the reported pairs and `uniformity` (t = 2) of their texts. None of
            a model that diverged: an embedding is not finite, or is 0, or a score is not finite.
        """
        found = self._embed(params)
        if not (np.isfinite(found).all() and np.any(found, axis=1).all()):
            return None
        unit = geometry.unit_rows(found)
        scores: dict[str, float] = {}
        for prefix, start in (("select/", 0), ("", 1)):
            queries = unit[self._queries[start::2]]
            ranking = score_retrieval(self._retrieval[start], queries, self._documents, unit)
            scores[f"{prefix}ndcg@10"] = ranking.ndcg_at_10
            if self._sts is not None:
                half = score_sts(self._sts[start], unit[self._sts_places[start]])
                scores[f"{prefix}spearman"] = half.overall.spearman
        x, y = unit[self._queries[1::2]], unit[self._documents[1::2]]
        scores["alignment"] = float(alignment(x, y)[0])
        texts = np.unique(np.concatenate([self._queries[1::2], self._documents[1::2]]))
        spread = align_uniform(unit[texts], devices=jax.local_devices()[:1])
        scores["uniformity"] = float(spread.uniformity[0])
        return scores if np.isfinite(list(scores.values())).all() else None
