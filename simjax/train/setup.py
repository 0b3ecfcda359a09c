"""From a configuration to the parts of a run: tokenizer, data, model, system, compiled step."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import optax
from flax import nnx
from jax.sharding import Mesh

from simjax import mesh as meshes
from simjax.data import corpus
from simjax.data.pipeline import BatchSource
from simjax.data.token_store import TokenStore
from simjax.data.tokenizer import train_wordpiece
from simjax.data.views import make_augmenter
from simjax.errors import SimjaxError, UsageError
from simjax.inference.identity import digest
from simjax.inference.pair_classifier import PairClassifier
from simjax.models import hf
from simjax.models.decoder import HEAD, LATENTS, Decoder
from simjax.models.sentence_model import SentenceModel
from simjax.models.tokenizer import load_tokenizer
from simjax.objectives.classification import SoftmaxClassification
from simjax.objectives.config import (
    ContrastiveConfig,
    SigmoidConfig,
    SoftmaxConfig,
    frozen_model,
)
from simjax.processes import roll_call
from simjax.sentence_encoder import SentenceEncoder
from simjax.train import frozen, memory, prompts, trained
from simjax.train.config import RunConfig
from simjax.train.folder import has_checkpoints
from simjax.train.heads import make_heads
from simjax.train.requirements import check_examples, check_teacher, check_width
from simjax.train.start import Start, make_model
from simjax.train.state import TrainState, abstract_state, init_state
from simjax.train.step import Step, blocks_per_device
from simjax.train.system import Facts, chinese_words, vocabulary_of
from simjax.train.update import check_parts, check_tensor, make_update
from simjax.types import Params

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


LEARNED = "tokenizer"
"""Folder of a run folder: the tokenizer that it has learned."""


@dataclass(frozen=True)
class Run:
    """The parts of a run.

    Attributes:
        config: What was asked for.
        mesh: The devices.
        source: The batches.
        model: The encoder with the parameters it starts from.
        encoder: Embeds texts for evaluation, with parameters to be replaced.
        params: All that is trained, before the first step.
        tx: The optimiser.
        step: The compiled update.
        total_steps: Updates of the whole run.
        chosen_micro_batch: Examples that a device encodes at a time, where its whole share of a
            batch would not have fitted.
        mask: Which of the parameters are trained, as of `trained.trained_mask`; None is all.
        frozen: Fingerprint of a frozen model's embeddings of the texts, where one is asked.
        encodings: Times that every text is encoded in a step, for the objective.
        compile_seconds: Spent compiling steps to see whether they fit.
    """

    config: RunConfig
    mesh: Mesh
    source: BatchSource
    model: SentenceModel
    encoder: SentenceEncoder
    params: Params
    tx: optax.GradientTransformation
    step: Step
    total_steps: int
    chosen_micro_batch: int | None = None
    mask: Any = None
    frozen: str | None = None
    encodings: int = 1
    compile_seconds: float = 0.0

    def encoder_of(self, parts: Mapping[str, Params]) -> SentenceEncoder:
        """The encoder, with its decoder if there is one, with other parameters."""
        return self.encoder.replace(parts["model"], parts)

    @property
    def finds_classes(self) -> bool:
        """Whether the objective trains a layer that tells the class of a pair."""
        return isinstance(self.config.objective, SoftmaxConfig)

    def pair_classifier(
        self, encoder: SentenceEncoder, parts: Mapping[str, Params]
    ) -> PairClassifier | None:
        """That layer with other parameters, behind the encoder that has them."""
        objective = self.config.objective
        if not isinstance(objective, SoftmaxConfig):
            return None
        found = SoftmaxClassification(objective, self.source.store.label_names)
        return PairClassifier(encoder, found, parts["objective"])

    def init_state(self) -> TrainState:
        """The state before the first step."""
        return init_state(self.params, self.tx, self.mesh, average=self._averages)

    def abstract_state(self) -> TrainState:
        """What a checkpoint is restored into."""
        return abstract_state(self.params, self.tx, self.mesh, average=self._averages)

    @property
    def _averages(self) -> bool:
        return self.config.train.ema is not None

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What must not change when a run is gone on with, as far as it decides the result."""
        config = dataclasses.asdict(self.config)
        data = {key: config["data"][key] for key in _DATA_IDENTITY}
        data["block_size"] = self.config.data.block
        data["weights"] = [source.weight for source in self.config.data.all_sources]
        if self.config.data.augment:
            data["augment"] = _without_paths(config["data"]["augment"])
            data["synonyms"] = self.source.synonyms
        if self.config.data.dropout_masks != "own":
            data["dropout_masks"] = self.config.data.dropout_masks
        kept = {key: config[key] for key in ("seed", "model", "objective", "optimizer")}
        store = self.source.store
        kept |= {"data": data, "token_store": store.fingerprint, "steps": self.total_steps}
        if kept["objective"]["name"] == "contrastive":
            # Runs from before there were others have no name for it, and go on.
            kept["objective"] = {k: v for k, v in kept["objective"].items() if k != "name"}
        if self.frozen is not None:
            # What the model says counts, and not where it lies.
            kept["objective"] = _renamed(kept["objective"], self.frozen)
        if self.config.tokenizer.source == "train":
            kept["vocab_size"] = self.config.tokenizer.vocab_size
        if self.config.train.freeze:
            kept["freeze"] = list(self.config.train.freeze)
        if self._averages:
            kept["ema"] = self.config.train.ema
        return kept

    def summary(self) -> str:
        """What is trained on what, in a line."""
        store, data = self.source.store, self.config.data
        reasons = {"a text is empty": store.skipped, "they repeat others": store.repeated}
        told = [f"{count:,} left out: {reason}" for reason, count in reasons.items() if count]
        left_out = f" ({'; '.join(told)})" if told else ""
        if len(store.sizes) > 1:
            left_out = f" of {len(store.sizes)} sources{left_out}"
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        part = "" if self.mask is None else f", {trained.count(self.params, self.mask):,} trained"
        sizes = {name: n for name, n in self.mesh.shape.items() if n > 1 or name != "tensor"}
        mesh = " x ".join(f"{name} {size}" for name, size in sizes.items())
        steps = "step" if self.total_steps == 1 else "steps"
        micro = self.chosen_micro_batch
        portions = "" if micro is None else f"; micro-batches of {micro:,}, for memory's sake"
        return (
            f"{len(store.examples):,} examples{left_out}, {self.total_steps:,} {steps} of "
            f"{data.batch_size:,} ({self.source.steps_per_epoch:,} an epoch); {parameters:,} "
            f"parameters{part}; devices: {mesh}{portions}{prompts.told(data, self.encoder)}"
        )


def _renamed(objective: dict[str, Any], fingerprint: str) -> dict[str, Any]:
    if objective.get("guide") is None:
        return objective | {"teacher": fingerprint}
    return objective | {"guide": objective["guide"] | {"model": fingerprint}}


_DATA_IDENTITY = (
    "views",
    "num_views",
    "mixing",
    "no_duplicates",
    "batch_size",
    "row_length",
    "max_length",
    "seed",
)


def _without_paths(changes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of views, all but where their tables lie: what these say counts."""
    return [{k: v for k, v in change.items() if k != "path"} for change in changes]


def set_up(config: RunConfig, *, devices: list[jax.Device] | None = None) -> Run:
    """Makes the parts of a run; reads or builds the token store, and loads or draws the model.

    Raises:
        SimjaxError: Data, tokenizer or model folder are missing or faulty.
        UsageError: The configuration does not fit the data or the devices.
    """
    mesh = meshes.make_mesh(config.mesh, devices)
    share, asked = blocks_per_device(
        config.data.batch_size, config.data.block, config.train.micro_batch, mesh
    )
    _check_groups(config, share * config.data.block)
    tokenizer = make_tokenizer(config)
    start = make_model(config, tokenizer)
    model = start.model
    check_tensor(config.mesh, model.config)
    check_width(config, model.embedding_size)
    store = corpus.prepare(config.data, tokenizer)
    asked_for = frozen_model(config.objective)
    fits = partial(check_teacher, config, model.embedding_size)
    told = None if asked_for is None else frozen.embeddings(*asked_for, config.data, store, fits)
    source = BatchSource(
        store,
        config.data,
        augmenter=make_augmenter(config.data, tokenizer),
        guide=None if told is None else told.vectors,
        words=chinese_words(config.objective, tokenizer),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    check_examples(config, source)
    total_steps = config.train.steps or max(1, round(config.train.epochs * source.steps_per_epoch))
    if config.train.profile is not None and config.train.profile[0] > total_steps:
        raise UsageError(
            f"train.profile begins at step {config.train.profile[0]} and the run has {total_steps}"
        )

    heads = make_heads(config, model.config)
    encoder = make_encoder(config, start, tokenizer, heads)
    _agree(config, encoder, store, told, total_steps)

    vocabulary = vocabulary_of(config.objective, tokenizer)
    facts = Facts(source.num_positives, store.label_names, vocabulary)
    update = make_update(config, mesh, model, heads, facts, total_steps)
    state = update.abstract_state()
    batch = memory.abstract_batch(source, mesh)
    free = memory.room(list(mesh.devices.flat))
    fit = memory.Fit(asked)
    began = time.perf_counter()
    if free is not None:
        fit = memory.choose(
            share,
            None if config.train.micro_batch is None else asked,
            config.data.block,
            free,
            lambda blocks: memory.most_bytes(
                model.config, state, batch, blocks, update.system.encodings
            ),
            lambda blocks: memory.step_bytes(update.step(blocks), state, batch, free),
        )
    # Where the formula leaves no doubt nothing is compiled.
    compiling = 0.0 if fit.bytes is None else time.perf_counter() - began
    check_parts(config, meshes.batch_parts(mesh), fit.micro_blocks < share)
    step = update.step(fit.micro_blocks)
    micro_batch = None if fit.micro_blocks == asked else fit.micro_blocks * config.data.block
    return Run(
        config,
        mesh,
        source,
        model,
        encoder,
        update.params,
        update.tx,
        step,
        total_steps,
        micro_batch,
        update.mask,
        None if told is None else told.fingerprint,
        update.system.encodings,
        compiling,
    )


def _agree(
    config: RunConfig,
    encoder: SentenceEncoder,
    store: TokenStore,
    told: frozen.Embedded | None,
    steps: int,
) -> None:
    """Holds what processes have read to what the others have; else they would wait for ever.

    From here on they compute together, and what each of them does follows from what it has.
    """
    if jax.process_count() == 1:
        return
    mine: dict[str, Any] = {"token_store": store.fingerprint, "steps": steps}
    if config.model.pretrained is not None:
        mine["model.pretrained"] = encoder.fingerprint()
        if encoder.decoder is not None:
            mine["decoder of model.pretrained"] = digest(encoder.decoder.params)
    if told is not None:
        mine["embeddings of the texts"] = told.fingerprint
    roll_call.agree("data", mine)


def make_encoder(
    config: RunConfig,
    start: Start,
    tokenizer: PreTrainedTokenizerFast,
    heads: Mapping[str, nnx.Module],
) -> SentenceEncoder:
    """The model as it is used: unit vectors, since it is trained on cosines.

    A `cls_mlp` pooler drops its dense layer after unsupervised contrastive training, as SimCSE
    does, and keeps it after any other, nested widths among them. A head that learned
    to write texts is used as well. Prompts are those that it started with, and those of its
    sources where they agree.
    """
    unsupervised = config.data.views == "dropout" and config.objective.matryoshka is None
    dropped = unsupervised and isinstance(config.objective, ContrastiveConfig | SigmoidConfig)
    decoder = None
    if config.objective.seq2seq is not None or config.model.latents is not None:
        decoder = Decoder(heads[HEAD], config.data.text_length, heads.get(LATENTS))
    return SentenceEncoder(
        start.model,
        tokenizer,
        normalize=True,
        max_length=start.max_length,
        prompts={**start.prompts, **(prompts.of_sources(config.data) or {})},
        default_prompt=start.default_prompt,
        training_head=not dropped,
        decoder=decoder,
    )


def load_run_tokenizer(config: RunConfig) -> PreTrainedTokenizerFast:
    """The tokenizer that a run names, or has learned before.

    Raises:
        SimjaxError: There is none.
    """
    wanted = config.tokenizer.source
    if wanted == "train":
        return load_tokenizer(_learned(config))
    name = wanted or config.model.pretrained
    if name is None:
        raise SimjaxError("tokenizer.source: give a folder, hub id or vocab.txt, or `train`")
    return load_tokenizer(name if Path(name).exists() else hf.resolve(name))


def _learned(config: RunConfig) -> Path:
    return Path(config.output).expanduser() / LEARNED


def make_tokenizer(config: RunConfig) -> PreTrainedTokenizerFast:
    """The tokenizer of a run that starts or goes on; one that it learns stays in its folder.

    Raises:
        SimjaxError: There is none, or the texts to learn it from cannot be read.
    """
    folder = _learned(config)
    # Without a checkpoint it was learned for a run that came to nothing, maybe by another recipe.
    if config.tokenizer.source != "train" or (has_checkpoints(folder.parent) and folder.is_dir()):
        return load_run_tokenizer(config)
    tokenizer = train_wordpiece(corpus.Texts(config.data), config.tokenizer.vocab_size)
    if jax.process_index() == 0:
        draft = folder.with_name(f"{LEARNED}.partial")
        shutil.rmtree(draft, ignore_errors=True)
        tokenizer.save_pretrained(draft)
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
    return tokenizer


def _check_groups(config: RunConfig, share: int) -> None:
    objective = config.objective
    size = objective.negative_group if isinstance(objective, ContrastiveConfig) else None
    if size is not None and share % size:
        raise UsageError(
            f"objective.negative_group: {size} does not divide the {share} examples that each "
            "device has of a batch; choose a divisor, or fewer devices"
        )
