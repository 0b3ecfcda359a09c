"""The configuration of a run: what a recipe in configs/ holds.

Each part's own dataclass lives beside its code; here they are put together and checked against
each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from simjax.checkpoint.config import CheckpointConfig
from simjax.data.config import DataConfig
from simjax.errors import UsageError
from simjax.eval.tasks import EvalConfig
from simjax.mesh import MeshConfig
from simjax.models.dropout import dropped_levels
from simjax.models.encoder import EncoderConfig, Remat
from simjax.models.latents import LatentsConfig
from simjax.models.pooling import Pooling
from simjax.objectives.config import ContrastiveConfig, ObjectiveConfig
from simjax.remote import check_local
from simjax.train import recipe
from simjax.train.average import Evaluated
from simjax.train.lora import LoraConfig
from simjax.train.optimizer_config import (
    AdamW,
    Lamb,
    Lars,
    Muon,
    OptimizerConfig,
    ScheduleFreeAdamW,
)
from simjax.train.view_checks import check_views

Dtype: TypeAlias = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class ModelConfig:
    """The encoder that training starts from.

    Attributes:
        pretrained: Hugging Face or sentence-transformers folder, or hub id, to load weights from;
            null starts from a random encoder of the shape `encoder`.
        encoder: Shape of a random encoder. Its vocabulary is sized by the tokenizer.
        pooling: How token vectors become an embedding; null takes what the pretrained folder
            says, or mean.
        dtype: Of the matrix products. Parameters and scores are float32 whatever this says.
        dropout: Rate that replaces the encoder's own two; null leaves them.
        random_head: Draw the dense layer of the pooling anew instead of taking the pretrained
            folder's, which for BERT is the one of its next-sentence task. SimCSE draws it.
        latents: Latents in the last layers, from which `objective.name: vae` learns to write a text
            again (UniVAE); null has none.
        lora: Adapters that are trained in place of the encoder's kernels, and merged into them
            where the model is evaluated and exported; null trains the encoder itself.
    """

    pretrained: str | None = None
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    pooling: Pooling | None = None
    dtype: Dtype = "float32"
    dropout: float | None = None
    random_head: bool = False
    latents: LatentsConfig | None = None
    lora: LoraConfig | None = None

    @property
    def dropout_rates(self) -> tuple[float | None, ...]:
        """Of hidden states and attention; None where the pretrained folder says."""
        if self.dropout is not None or self.pretrained is not None:
            return (self.dropout, self.dropout)
        return (self.encoder.hidden_dropout, self.encoder.attention_dropout)


@dataclass(frozen=True)
class TokenizerConfig:
    """How text becomes tokens.

    Attributes:
        source: Folder, hub id or vocab.txt; `train` learns a WordPiece vocabulary from the
            training texts; null takes the pretrained model's own.
        vocab_size: Size of a vocabulary that is learned.
    """

    source: str | None = None
    vocab_size: int = 8192


@dataclass(frozen=True)
class TrainConfig:
    """How long, in what portions.

    Attributes:
        epochs: Passes over the training examples.
        steps: Batches; where given, it counts and `epochs` does not.
        micro_batch: Examples that a device encodes at a time, a multiple of `data.block_size`;
            null takes the whole share of the batch, or as much of it as the compiler says will
            fit. The result does not depend on it, memory does.
        remat: What the backward pass computes anew to save memory within a micro-batch: each
            `layer` from its input, or all but the outputs of its dense layers (`products`); null
            keeps everything.
        log_every: Steps between two lines of metrics.
        noise_scale: Log what of the gradient is noise and what is signal (`gradient_noise`,
            `gradient_signal`), measured from the parts that micro-batches and devices add to it.
        ema: Decay of an exponential moving average of the parameters; null keeps none.
        evaluate: Which parameters are evaluated and exported where `ema` keeps an average: the
            average or the newest.
        patience: Stop after so many evaluations in which `evaluation.metric` was no better than
            the best one before; null goes on to the end.
        min_change: By how much it must be better to count.
        freeze: Patterns of parameters that stay as they are, such as `encoder.embeddings.*` or
            `encoder.layers.[0-5].*`. What is frozen in some layers alone is still computed with
            the others' gradients.
        profile: The first and the last step of a profiler trace, counted from 1, which goes into
            the run folder's `tensorboard/`; null makes none.
        wandb: Project of Weights & Biases that the figures go to as well (needs the extra
            `wandb`); null sends nothing anywhere.
    """

    epochs: float = 1.0
    steps: int | None = None
    micro_batch: int | None = None
    remat: Remat | None = None
    log_every: int = 10
    noise_scale: bool = False
    ema: float | None = None
    evaluate: Literal["average", "newest"] = "average"
    patience: int | None = None
    min_change: float = 0.0
    freeze: tuple[str, ...] = ()
    profile: tuple[int, ...] | None = None
    wandb: str | None = None


@dataclass(frozen=True)
class RunConfig:
    """Everything that a run depends on.

    Attributes:
        output: Folder of the run: configuration, metrics, checkpoints, export.
        seed: Of random parameters and dropout. The order of the data has a seed of its own.
        model: What is trained.
        tokenizer: How text becomes tokens.
        data: What it is trained on.
        objective: What is minimised.
        optimizer: By what.
        train: For how long.
        mesh: On which layout of devices.
        evaluation: What it is measured by.
        checkpoint: What is kept.
    """

    output: str
    seed: int = 0
    model: ModelConfig = field(default_factory=ModelConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    objective: ObjectiveConfig = field(default_factory=ContrastiveConfig)
    optimizer: OptimizerConfig = field(default_factory=AdamW)
    train: TrainConfig = field(default_factory=TrainConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    evaluation: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)


def load(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a recipe.

    Args:
        path: YAML file.
        overrides: Each `--dotted.key=VALUE`, later ones winning.

    Raises:
        UsageError: With file and line, or flag: an unknown, repeated or missing key, a value of
            the wrong type or out of its range, values that contradict each other.
    """
    config, located = recipe.read(RunConfig, Path(path), overrides)
    try:
        validate(config)
    except UsageError as error:
        raise located.complete(error) from error
    return config


def dump(config: RunConfig) -> str:
    """The configuration as YAML, every key written out; `load` reads it back."""
    return recipe.to_yaml(config)


def validate(config: RunConfig) -> None:
    """Check what no part can check by itself.

    Raises:
        UsageError: Naming the keys at odds.
    """
    for key, seed in (("seed", config.seed), ("data.seed", config.data.seed)):
        if not 0 <= seed < 2**32:
            raise UsageError(f"{key} is {seed}: give a whole number from 0 to {2**32 - 1:,}")
    check_local("output", config.output)
    _check_model(config)
    check_views(config)
    _check_length(config)
    _check_micro_batch(config)
    _check_average(config)
    _check_frozen(config)
    _check_patience(config)
    _check_noise(config)
    if config.checkpoint.every and config.checkpoint.keep < 2:
        raise UsageError(
            f"checkpoint.keep is {config.checkpoint.keep}: keep at least 2, since a state is saved "
            "before the next step's loss shows whether it is a good one"
        )
    if config.evaluation.metric is not None and not config.evaluation.tasks:
        raise UsageError(
            f"evaluation.metric is {config.evaluation.metric!r} and evaluation.tasks is empty: "
            "name the sets to evaluate"
        )


def _check_model(config: RunConfig) -> None:
    model, tokenizer = config.model, config.tokenizer
    if model.pretrained is None and tokenizer.source is None:
        raise UsageError(
            "tokenizer.source is missing and model.pretrained is null: give a folder, hub id or "
            "vocab.txt, or `train` to learn a vocabulary from the training texts"
        )
    if model.pretrained is not None and tokenizer.source == "train":
        raise UsageError(
            "tokenizer.source is train and model.pretrained is given: pretrained weights need "
            "the vocabulary they were trained with"
        )
    if model.pretrained is not None and model.encoder != EncoderConfig():
        raise UsageError(
            "model.encoder has no effect where model.pretrained is given, whose shape counts; "
            "remove one of them"
        )
    if model.dropout is not None:
        try:
            dropped_levels(model.dropout)
        except UsageError as error:
            raise UsageError(f"model.dropout: {error}") from error
    if tokenizer.vocab_size < 256:
        raise UsageError(f"tokenizer.vocab_size is {tokenizer.vocab_size}: give at least 256")
    if model.pretrained is None and config.data.max_length > model.encoder.max_positions:
        raise UsageError(
            f"data.max_length is {config.data.max_length} and model.encoder.max_positions "
            f"{model.encoder.max_positions}: texts must not be longer than the encoder allows"
        )


def _check_length(config: RunConfig) -> None:
    train = config.train
    if not train.epochs > 0:
        raise UsageError(f"train.epochs is {train.epochs}: give a number above 0")
    if train.steps is not None and train.steps < 1:
        raise UsageError(f"train.steps is {train.steps}: give at least 1")
    if train.log_every < 1:
        raise UsageError(f"train.log_every is {train.log_every}: give at least 1")
    if train.profile is not None:
        first, *rest = train.profile or (0,)
        if len(rest) != 1 or not 1 <= first <= rest[0]:
            raise UsageError(
                f"train.profile is {list(train.profile)}: give two steps, the first and the last "
                "to be traced, counted from 1"
            )


def _check_frozen(config: RunConfig) -> None:
    key = "model.lora" if config.model.lora is not None else "train.freeze"
    if config.model.lora is None and not config.train.freeze:
        return
    if isinstance(config.optimizer, ScheduleFreeAdamW):
        raise UsageError(f"{key} does not go with optimizer schedule_free_adamw; choose another")
    if config.model.lora is None:
        return
    if isinstance(config.optimizer, Lamb | Lars | Muon):
        raise UsageError(
            f"model.lora does not go with optimizer {config.optimizer.name}, which is made for "
            "whole matrices; choose adamw, adafactor or sgd"
        )
    if config.mesh.gather == "layer":
        raise UsageError("model.lora does not go with mesh.gather layer; use step")
    if config.mesh.tensor != 1:
        raise UsageError("model.lora does not go with mesh.tensor above 1; use mesh.fsdp")


def _check_average(config: RunConfig) -> None:
    train = config.train
    if train.ema is not None and not 0 < train.ema < 1:
        raise UsageError(f"train.ema is {train.ema}: give a number between 0 and 1, or null")
    if isinstance(config.optimizer, ScheduleFreeAdamW) and (
        train.ema is not None or train.evaluate == "newest"
    ):
        key = "ema" if train.ema is not None else "evaluate"
        raise UsageError(
            f"train.{key} is {getattr(train, key)} and optimizer.name schedule_free_adamw, which "
            "keeps an average of its own that is evaluated and exported; remove one of them"
        )


def _check_patience(config: RunConfig) -> None:
    train, evaluation = config.train, config.evaluation
    if train.min_change < 0:
        raise UsageError(f"train.min_change is {train.min_change}: give 0 or more")
    if train.patience is None:
        return
    if train.patience < 1:
        raise UsageError(f"train.patience is {train.patience}: give at least 1, or null")
    if evaluation.metric is None or not evaluation.every:
        key = "metric is null" if evaluation.metric is None else "every is 0"
        raise UsageError(
            f"train.patience is {train.patience} and evaluation.{key}: name the score to watch, "
            "and how often it is taken"
        )


def _check_noise(config: RunConfig) -> None:
    if not config.train.noise_scale:
        return
    for key, given in {
        "mesh.gather layer": config.mesh.gather == "layer",
        "objective.mlm": config.objective.mlm is not None,
        "objective.seq2seq": config.objective.seq2seq is not None,
        f"objective.name {config.objective.name}": not _is_contrastive(config),
        "objective.learnable_temperature": _learns_temperature(config),
    }.items():
        if given:
            raise UsageError(f"train.noise_scale does not go with {key}; remove one of them")


def _is_contrastive(config: RunConfig) -> bool:
    return isinstance(config.objective, ContrastiveConfig)


def _learns_temperature(config: RunConfig) -> bool:
    objective = config.objective
    return isinstance(objective, ContrastiveConfig) and objective.learnable_temperature


def evaluated_parameters(config: RunConfig) -> Evaluated:
    """Which parameters of the run are evaluated and exported."""
    if isinstance(config.optimizer, ScheduleFreeAdamW):
        return "schedule_free"
    return "ema" if config.train.ema and config.train.evaluate == "average" else "newest"


def _check_micro_batch(config: RunConfig) -> None:
    micro, block = config.train.micro_batch, config.data.block
    if micro is None:
        return
    if micro < block or micro % block:
        raise UsageError(
            f"train.micro_batch is {micro}: give a multiple of data.block_size, which is {block}"
        )
    if micro > config.data.batch_size:
        raise UsageError(
            f"train.micro_batch is {micro}, more than data.batch_size, which is "
            f"{config.data.batch_size}; leave it out to encode the batch at once"
        )
