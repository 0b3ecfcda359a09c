"""What data, encoder and objective ask of each other, as far as the recipe tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simjax.data.config import DataConfig
from simjax.errors import UsageError
from simjax.models.encoder import EncoderConfig
from simjax.models.latents import LatentsConfig
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

if TYPE_CHECKING:
    from simjax.train.config import RunConfig

SEGMENTED = ("paraphrases", "reconstruction")
"""Views that are two texts in a row."""


def check_views(config: RunConfig) -> None:
    """Refuses views, dropout and objectives that do not go together.

    Raises:
        UsageError: Naming the keys at odds.
    """
    model, data, objective = config.model, config.data, config.objective
    rates = model.dropout_rates
    if told_apart_by_dropout(data):
        check_dropout("the encoder", *rates)
    two = isinstance(objective, TensionConfig | InBatchTensionConfig)
    if two != (data.views == "single"):
        raise UsageError(
            f"data.views is {data.views} and objective.name {objective.name}: views single are for "
            "tension and tension_in_batch, and these for them; change one of the two"
        )
    if two and config.mesh.gather == "layer":
        raise UsageError("mesh.gather layer does not go with objectives of two encoders; use step")
    if data.views == "single" and any(change.views == "positives" for change in data.augment):
        raise UsageError(
            "data.augment changes positives and data.views single has none, so nothing would be "
            "changed; give its views: all or anchor"
        )
    _check_paraphrases(config)
    _check_latents(config)
    if model.pretrained is None:
        check_segments(data.views, "model.encoder", model.encoder)
    if isinstance(objective, SoftmaxConfig):
        _check_softmax(objective)
        check_r_drop(objective, data, "the encoder", *rates)
    elif any(task.kind == "labels" for task in config.evaluation.tasks):
        raise UsageError(
            f"evaluation.tasks has one of kind labels and objective.name is {objective.name}: no "
            "classes are learned; remove the task, or take objective.name softmax"
        )
    if (
        isinstance(objective, DistillationConfig)
        and objective.target in ("embedding", "cosine")
        and objective.matryoshka is not None
    ):
        raise UsageError(
            f"objective.matryoshka does not go with objective.target {objective.target}, which "
            "needs the teacher's width; use similarity, margin or kl"
        )
    if (
        isinstance(objective, ContrastiveConfig | SigmoidConfig | InBatchTensionConfig)
        and objective.false_negatives == "label"
        and not any(source.label or source.label_above is not None for source in data.all_sources)
    ):
        raise UsageError(
            "objective.false_negatives is label and data.source.label names no column; name one, "
            "or make classes of scores by data.source.label_above"
        )
    if data.views == "dropout" and isinstance(
        objective, AngleConfig | CosentConfig | CosineConfig | SoftmaxConfig | TripletConfig
    ):
        raise UsageError(
            f"data.views is dropout and objective.name {objective.name}, which compares different "
            "texts and not a text with itself; use data.views columns"
        )
    if isinstance(objective, ContrastiveConfig):
        _check_guide(config, objective)


def _check_paraphrases(config: RunConfig) -> None:
    data, objective = config.data, config.objective
    if objective.seq2seq is None:
        if data.views == "paraphrases":
            raise UsageError(
                "data.views is paraphrases and objective.seq2seq is null: nothing is learned of "
                "the texts behind; give objective.seq2seq, or data.views columns"
            )
        if any(task.kind == "paraphrases" for task in config.evaluation.tasks):
            raise UsageError(
                "evaluation.tasks has one of kind paraphrases and objective.seq2seq is null: no "
                "text is predicted; remove the task, or learn it"
            )
    elif data.views != "paraphrases":
        raise UsageError(
            f"objective.seq2seq is given and data.views is {data.views}: a text is predicted from "
            "the one in front of it, which data.views paraphrases puts there"
        )
    elif objective.mlm is not None:
        raise UsageError(
            "objective.mlm and objective.seq2seq are given, which learn one head; remove one"
        )
    elif isinstance(objective, SoftmaxConfig) and objective.r_drop is not None:
        raise UsageError(
            "objective.seq2seq does not go with objective.r_drop, for which texts are encoded "
            "twice; remove one"
        )


def _check_latents(config: RunConfig) -> None:
    """Latents, the loss that learns them, and the rows that it learns them from need each other."""
    latents, objective = config.model.latents, config.objective
    parts = {
        f"objective.name is {objective.name}": isinstance(objective, VaeConfig),
        f"data.views is {config.data.views}": config.data.views == "reconstruction",
        f"model.latents is {'null' if latents is None else 'given'}": latents is not None,
    }
    if latents is None and not any(parts.values()):
        if any(task.kind == "reconstruction" for task in config.evaluation.tasks):
            raise UsageError(
                "evaluation.tasks has one of kind reconstruction and model.latents is null: no "
                "text is written again; remove the task, or give objective.name vae"
            )
        return
    if latents is None or not isinstance(objective, VaeConfig) or not all(parts.values()):
        raise UsageError(
            f"{' and '.join(parts)}: objective.name vae, data.views reconstruction and "
            "model.latents go together; give all three or none"
        )
    if config.model.pretrained is None:
        latents.check(config.model.encoder)
    sphere = latents.kind == "von_mises_fisher"
    for key, unused in {
        "model.latents.kappa": not sphere and latents.kappa != LatentsConfig.kappa,
        "objective.kl_weight": sphere and objective.kl_weight != VaeConfig.kl_weight,
        "objective.kl_warmup": sphere and objective.kl_warmup != VaeConfig.kl_warmup,
    }.items():
        if unused:
            raise UsageError(
                f"{key} is given and model.latents.kind is {latents.kind}, for which it means "
                "nothing; leave it out"
            )
    for key, given in {
        "mesh.gather layer": config.mesh.gather == "layer",
        "mesh.tensor above 1": config.mesh.tensor != 1,
    }.items():
        if given:
            raise UsageError(f"objective.name vae does not go with {key}; use mesh.fsdp, by step")


def _check_softmax(objective: SoftmaxConfig) -> None:
    if objective.matryoshka is not None:
        raise UsageError(
            "objective.matryoshka does not go with objective.name softmax, whose layer is of one "
            "width; remove it"
        )


def _check_guide(config: RunConfig, objective: ContrastiveConfig) -> None:
    guide = objective.guide
    if config.data.views == "dropout" and guide is not None and guide.margin == 0:
        raise UsageError(
            "objective.guide.margin is 0 and data.views is dropout: nothing is closer to a text "
            "than itself, so the guide would leave out nothing; give a margin above 0"
        )


def check_segments(views: str, name: str, shape: EncoderConfig) -> None:
    """Refuses an encoder that cannot tell the text in front from the one behind, where views have.

    Raises:
        UsageError: It has no two token types.
    """
    if views in SEGMENTED and not shape.two_segments:
        raise UsageError(
            f"data.views is {views} and {name} ({shape.family}) has no two token types, which "
            "say which text stands in front; choose bert, roformer, electra or albert"
        )


def check_r_drop(
    objective: SoftmaxConfig, data: DataConfig, encoder: str, *rates: float | None
) -> None:
    """Refuses an encoder whose two passes are equal; a rate of None is not known yet.

    Raises:
        UsageError: All rates are 0, or nothing is dropped whatever they are.
    """
    if objective.r_drop is None:
        return
    for why, equal in {
        f"the dropout of {encoder} is 0": all(rate == 0 for rate in rates),
        "data.dropout_masks is none": data.dropout_masks == "none",
    }.items():
        if equal:
            raise UsageError(
                f"objective.r_drop is given and {why}: its two passes would be equal; give "
                "model.dropout a rate above 0, and leave data.dropout_masks out"
            )


def told_apart_by_dropout(data: DataConfig) -> bool:
    """Whether nothing but dropout makes a difference between the views of a text."""
    return data.views == "dropout" and data.dropout_masks == "own" and not data.augment


def check_dropout(encoder: str, *rates: float | None) -> None:
    """Refuses an encoder that gives equal views of a text; a rate of None is not known yet.

    Raises:
        UsageError: All rates are 0.
    """
    if all(rate == 0 for rate in rates):
        raise UsageError(
            f"data.views is dropout and the dropout of {encoder} is 0: the views of a text would "
            "be equal; give model.dropout a rate above 0, or data.augment something to change (or "
            "data.dropout_masks none, if they are to be equal)"
        )
