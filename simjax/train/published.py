"""The published systems, and what chooses each of them in a recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from simjax.objectives.config import (
    AngleConfig,
    ContrastiveConfig,
    CosentConfig,
    CosineConfig,
    DistillationConfig,
    InBatchTensionConfig,
    SigmoidConfig,
    SoftmaxConfig,
    TensionConfig,
    TripletConfig,
    VaeConfig,
)
from simjax.train.config import RunConfig


@dataclass(frozen=True)
class Published:
    """A system of the literature.

    Attributes:
        name: What it is called.
        source: Where it was published.
        keys: What chooses it in a recipe, in words.
        chosen: Whether a recipe does.
    """

    name: str
    source: str
    keys: str
    chosen: Callable[[RunConfig], bool]

    def __str__(self) -> str:
        return f"{self.name} ({self.source})"


def _contrastive(config: RunConfig) -> ContrastiveConfig | None:
    return config.objective if isinstance(config.objective, ContrastiveConfig) else None


def _loss(word: str) -> Callable[[RunConfig], bool]:
    return lambda c: (own := _contrastive(c)) is not None and own.loss == word


def _directions(word: str) -> Callable[[RunConfig], bool]:
    return lambda c: (own := _contrastive(c)) is not None and own.directions == word


def _is(kind: type) -> Callable[[RunConfig], bool]:
    return lambda c: isinstance(c.objective, kind)


def _augmented(*kinds: str) -> Callable[[RunConfig], bool]:
    return lambda c: c.data.views == "dropout" and any(x.kind in kinds for x in c.data.augment)


def _dropout(config: RunConfig) -> bool:
    """Whether dropout makes a difference between the views, perhaps besides others."""
    own = config.data.views == "dropout" and config.data.dropout_masks == "own"
    rates = config.model.dropout_rates
    return _contrastive(config) is not None and own and any(rate != 0 for rate in rates)


def _hard_negatives(config: RunConfig) -> bool:
    """Whether columns are named for them; those that a source finds by itself are not known."""
    named = any(source.negatives for source in config.data.all_sources)
    return _contrastive(config) is not None and config.data.views == "columns" and named


def _fits(*targets: str) -> Callable[[RunConfig], bool]:
    return lambda c: isinstance(c.objective, DistillationConfig) and c.objective.target in targets


def _simbert(config: RunConfig) -> bool:
    return config.objective.seq2seq is not None and _directions("views")(config)


def _roformer_sim(config: RunConfig) -> bool:
    own = config.objective.seq2seq
    masks = own is not None and own.corrupted > 0 and own.rate > 0
    return masks and (_simbert(config) or _fits("similarity")(config))


PUBLISHED: tuple[Published, ...] = (
    Published("InfoNCE", "arXiv 1807.03748", "objective.loss infonce", _loss("infonce")),
    Published("DCL", "arXiv 2110.06848", "objective.loss dcl", _loss("dcl")),
    Published("FlatNCE", "arXiv 2107.01152", "objective.loss flatnce", _loss("flatnce")),
    Published(
        "SimCLR",
        "arXiv 2002.05709",
        "objective.directions views",
        lambda c: _directions("views")(c) and c.objective.seq2seq is None,
    ),
    Published("GTE", "arXiv 2308.03281", "objective.directions joint", _directions("joint")),
    Published(
        "GISTEmbed",
        "arXiv 2402.16829",
        "objective.guide",
        lambda c: (own := _contrastive(c)) is not None and own.guide is not None,
    ),
    Published("unsupervised SimCSE", "arXiv 2104.08821", "data.views dropout", _dropout),
    Published(
        "supervised SimCSE",
        "arXiv 2104.08821",
        "objective.name contrastive, data.source.negatives",
        _hard_negatives,
    ),
    Published(
        "SimCSE's masked language modelling",
        "arXiv 2104.08821",
        "objective.name contrastive, objective.mlm",
        lambda c: _contrastive(c) is not None and c.objective.mlm is not None,
    ),
    Published(
        "ESimCSE's repetition",
        "arXiv 2109.04380",
        "data.augment of kind repeat",
        _augmented("repeat"),
    ),
    Published(
        "ConSERT's augmentations",
        "arXiv 2105.11741",
        "data.augment of kind shuffle, feature_cutoff or token_cutoff",
        _augmented("shuffle", "feature_cutoff", "token_cutoff"),
    ),
    Published("SigLIP", "arXiv 2303.15343", "objective.name sigmoid", _is(SigmoidConfig)),
    Published(
        "Contrastive Tension",
        "OpenReview Ov_sMNau-PF",
        "objective.name tension, data.views single",
        _is(TensionConfig),
    ),
    Published(
        "Contrastive Tension in the batch",
        "sentence-transformers",
        "objective.name tension_in_batch, data.views single",
        _is(InBatchTensionConfig),
    ),
    Published(
        "Sentence-BERT's classification",
        "arXiv 1908.10084",
        "objective.name softmax",
        _is(SoftmaxConfig),
    ),
    Published(
        "Sentence-BERT's regression",
        "arXiv 1908.10084",
        "objective.name cosine",
        _is(CosineConfig),
    ),
    Published(
        "Sentence-BERT's triplets",
        "arXiv 1908.10084",
        "objective.name triplet",
        _is(TripletConfig),
    ),
    Published(
        "R-Drop",
        "arXiv 2106.14448",
        "objective.r_drop",
        lambda c: isinstance(c.objective, SoftmaxConfig) and c.objective.r_drop is not None,
    ),
    Published("CoSENT", "kexue.fm 8847", "objective.name cosent", _is(CosentConfig)),
    Published("AnglE's angles", "arXiv 2309.12871", "objective.name angle", _is(AngleConfig)),
    Published(
        "SimBERT",
        "github.com/ZhuiyiTechnology/simbert",
        "objective.seq2seq, objective.directions views, data.views paraphrases",
        lambda c: _simbert(c) and not _roformer_sim(c),
    ),
    Published(
        "RoFormer-Sim",
        "github.com/ZhuiyiTechnology/roformer-sim",
        "those of SimBERT or of distillation of similarities, objective.seq2seq.corrupted",
        _roformer_sim,
    ),
    Published(
        "RoFormer-Sim's supervised stage",
        "github.com/ZhuiyiTechnology/roformer-sim",
        "objective.label_spaces",
        lambda c: isinstance(c.objective, SoftmaxConfig) and bool(c.objective.label_spaces),
    ),
    Published(
        "distillation of similarities",
        "github.com/ZhuiyiTechnology/roformer-sim",
        "objective.name distillation, objective.target similarity",
        _fits("similarity"),
    ),
    Published(
        "distillation of embeddings",
        "arXiv 2004.09813",
        "objective.name distillation, objective.target embedding or cosine",
        _fits("embedding", "cosine"),
    ),
    Published(
        "margin-MSE",
        "arXiv 2010.02666",
        "objective.name distillation, objective.target margin",
        _fits("margin"),
    ),
    Published(
        "distillation of softmax probabilities",
        "arXiv 1503.02531",
        "objective.name distillation, objective.target kl",
        _fits("kl"),
    ),
    Published(
        "Matryoshka",
        "arXiv 2205.13147",
        "objective.matryoshka",
        lambda c: c.objective.matryoshka is not None,
    ),
    Published("UniVAE", "kexue.fm 8475", "objective.name vae, model.latents", _is(VaeConfig)),
)
"""Those that a recipe can choose; whitening and flow are `simjax postprocess`."""


def systems(config: RunConfig) -> tuple[Published, ...]:
    """The systems that a recipe is made of."""
    return tuple(one for one in PUBLISHED if one.chosen(config))
