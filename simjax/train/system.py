"""The system of a configuration: what is trained, and by which losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from simjax.data.augment import Change, FeatureCutoff, TokenCutoff, changed_views
from simjax.data.chinese_words import ChineseWords, make_chinese_words
from simjax.errors import UsageError
from simjax.models import latents as latent_passes
from simjax.models.cutoff import Cutoff
from simjax.models.decoder import HEAD, LATENTS
from simjax.models.encoder import EncoderConfig, Remat
from simjax.models.latents import Latents
from simjax.models.lm_head import LanguageModelHead, token_losses
from simjax.models.sentence_model import SentenceModel, merge, split
from simjax.objectives.classification import SoftmaxClassification
from simjax.objectives.config import (
    AngleConfig,
    ContrastiveConfig,
    CosentConfig,
    CosineConfig,
    DistillationConfig,
    InBatchTensionConfig,
    MaskedLmConfig,
    ObjectiveConfig,
    Seq2SeqConfig,
    SigmoidConfig,
    SoftmaxConfig,
    TensionConfig,
    TripletConfig,
    VaeConfig,
)
from simjax.objectives.contrastive import Contrastive
from simjax.objectives.distillation import Distillation
from simjax.objectives.masked_lm import MaskedLm, Vocabulary
from simjax.objectives.matryoshka import Matryoshka
from simjax.objectives.objective import Objective
from simjax.objectives.ranking import Ranking
from simjax.objectives.regression import CosineRegression
from simjax.objectives.seq2seq import Seq2Seq
from simjax.objectives.sigmoid import Sigmoid
from simjax.objectives.system import AnySystem, EmbeddingSystem, SeparableSystem
from simjax.objectives.tension import InBatchTension, Tension
from simjax.objectives.triplet import Triplet
from simjax.objectives.uniformity import Views
from simjax.objectives.vae import Vae
from simjax.train import lora
from simjax.train.config import RunConfig
from simjax.types import Batch, Params

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Facts:
    """What the data decide of a system.

    Attributes:
        positives: Positives of an example.
        classes: Names of the classes.
        vocabulary: What masked tokens are drawn from, where some are.
    """

    positives: int
    classes: tuple[str, ...] = ()
    vocabulary: Vocabulary | None = None


def make_system(
    config: RunConfig,
    graphdef: Any,
    encoder: EncoderConfig,
    facts: Facts,
    heads: Mapping[str, nnx.Module],
) -> AnySystem:
    """The system of a configuration: one tower and its objective.

    Args:
        config: Of the run.
        graphdef: Structure of the model.
        encoder: Its shape.
        facts: What is known of the data.
        heads: What is trained with the encoder.
    """
    data = config.data
    dropout = encoder.hidden_dropout > 0 or encoder.attention_dropout > 0
    dropout &= data.dropout_masks != "none"
    cuts = any(isinstance(change, FeatureCutoff | TokenCutoff) for change in data.augment)

    def model_of(params: Params) -> SentenceModel:
        return merge(graphdef, lora.merged(params, config.model.lora))

    def encode(params: Params, batch: Batch, dropout_key: Any, gather_layer: Any) -> jax.Array:
        num_views = batch.ids.shape[-1]
        return model_of(params)(
            batch.block,
            dropout_key=dropout_key if dropout else None,
            place=jnp.asarray(batch.place),
            gather_layer=gather_layer,
            remat=config.train.remat,
            mask_groups=num_views if data.dropout_masks == "shared" else 1,
            cutoffs=cutoffs_of(data.augment, num_views, facts.positives),
            cutoff_key=dropout_key,
        )

    if isinstance(config.objective, VaeConfig):
        return SeparableSystem(
            vae(
                config.objective,
                model_of,
                heads[HEAD],
                heads[LATENTS],
                dropout=dropout,
                remat=config.train.remat,
            )
        )
    separable = None
    if config.objective.mlm is not None:
        assert facts.vocabulary is not None  # of the tokenizer
        separable = masked_lm(
            config.objective.mlm,
            model_of,
            heads[HEAD],
            facts.vocabulary,
            dropout=dropout,
            remat=config.train.remat,
        )
    alongside = None
    if config.objective.seq2seq is not None:
        alongside = seq2seq(
            config.objective.seq2seq,
            model_of,
            heads[HEAD],
            facts.vocabulary,
            dropout=dropout,
            remat=config.train.remat,
        )
    objective = make_objective(config, facts)
    return EmbeddingSystem(encode, objective, dropout or cuts, separable, alongside)


def make_objective(config: RunConfig, facts: Facts) -> Objective:
    """The loss of a configuration.

    Args:
        config: Of the run.
        facts: What is known of the data.
    """
    objective = _plain_objective(config, facts)
    nested = config.objective.matryoshka
    return objective if nested is None else Matryoshka(objective, nested)


def _plain_objective(config: RunConfig, facts: Facts) -> Objective:
    wanted, dtype, exchange = config.objective, jnp.dtype(config.model.dtype), config.mesh.keys
    data = config.data
    alike = all(change.views == "all" for change in data.augment)
    views = Views(
        positives=facts.positives,
        one_distribution=data.views == "dropout" and alike,
        group=data.block,
    )
    match wanted:
        case ContrastiveConfig():
            return Contrastive(wanted, views, dtype, exchange)
        case SigmoidConfig():
            return Sigmoid(wanted, views, dtype, exchange)
        case TensionConfig():
            return Tension(wanted, data.block)
        case InBatchTensionConfig():
            return InBatchTension.of(wanted, data.block, dtype, exchange)
        case CosineConfig():
            return CosineRegression(wanted)
        case CosentConfig() | AngleConfig():
            return Ranking(wanted)
        case SoftmaxConfig():
            return SoftmaxClassification(wanted, facts.classes)
        case TripletConfig():
            return Triplet(wanted)
        case DistillationConfig():
            return Distillation(wanted)
        case VaeConfig():
            raise AssertionError("it compares no embeddings")


def cutoffs_of(
    changes: tuple[Change, ...], num_views: int, num_positives: int
) -> tuple[Cutoff, ...]:
    """What the encoder cuts of the embeddings of views."""
    return tuple(
        Cutoff(
            "features" if isinstance(change, FeatureCutoff) else "tokens",
            change.rate,
            changed_views(change.views, num_views, num_positives),
        )
        for change in changes
        if isinstance(change, FeatureCutoff | TokenCutoff)
    )


def masked_lm(
    config: MaskedLmConfig,
    model_of: Callable[[Params], SentenceModel],
    head: LanguageModelHead,
    vocabulary: Vocabulary,
    *,
    dropout: bool,
    remat: Remat | None = None,
) -> MaskedLm:
    """The auxiliary loss of an encoder whose parameters are `model` and its head's `HEAD`."""
    head_graph, _ = split(head)

    def predict(
        params: Params,
        batch: Batch,
        where: jax.Array,
        targets: jax.Array,
        dropout_key: Any,
        gather_layer: Any,
    ) -> tuple[jax.Array, jax.Array]:
        model = model_of(params["model"])
        states = model.token_states(
            batch.block,
            dropout_key=dropout_key,
            place=jnp.asarray(batch.place),
            gather_layer=gather_layer,
            remat=remat,
        )
        table = model.encoder.embeddings.word.embedding[...]
        return token_losses(merge(head_graph, params[HEAD]), table, states, where, targets)

    return MaskedLm(config, vocabulary, predict, dropout)


def seq2seq(
    config: Seq2SeqConfig,
    model_of: Callable[[Params], SentenceModel],
    head: LanguageModelHead,
    vocabulary: Vocabulary | None = None,
    *,
    dropout: bool,
    remat: Remat | None = None,
) -> Seq2Seq:
    """The loss alongside of an encoder whose parameters are `model` and its head's `HEAD`."""
    head_graph, _ = split(head)

    def embed_and_predict(
        params: Params,
        batch: Batch,
        where: jax.Array,
        targets: jax.Array,
        dropout_key: Any,
        gather_layer: Any,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        model = model_of(params["model"])
        vectors, states = model.with_states(
            batch.block,
            dropout_key=dropout_key,
            place=jnp.asarray(batch.place),
            gather_layer=gather_layer,
            remat=remat,
        )
        table, own = model.encoder.embeddings.word.embedding[...], params[HEAD]
        losses, right = token_losses(merge(head_graph, own), table, states, where, targets)
        return vectors, losses, right

    corrupted = vocabulary if config.corrupted else None
    return Seq2Seq(config, embed_and_predict, dropout, corrupted)


def vae(
    config: VaeConfig,
    model_of: Callable[[Params], SentenceModel],
    head: LanguageModelHead,
    latents: Latents,
    *,
    dropout: bool,
    remat: Remat | None = None,
) -> Vae:
    """The loss of an encoder with a head and latents: `model`, `HEAD` and `LATENTS`."""
    head_graph, latents_graph = split(head)[0], split(latents)[0]
    settings = latents.config

    def reconstruct(
        params: Params,
        batch: Batch,
        where: jax.Array,
        targets: jax.Array,
        latent_key: Any,
        dropout_key: Any,
        gather_layer: Any,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        encoder, place = model_of(params["model"]).encoder, jnp.asarray(batch.place)
        passed = latent_passes.pass_through(
            encoder,
            merge(latents_graph, params[LATENTS]),
            batch.block,
            latent_passes.drawn(settings, latent_key, place),
            dropout_key=dropout_key,
            place=place,
            gather_layer=gather_layer,
            remat=remat,
        )
        table = encoder.embeddings.word.embedding[...]
        own = merge(head_graph, params[HEAD])
        losses, right = token_losses(own, table, passed.states, where, targets)
        return losses, right, passed.divergence

    return Vae(config, reconstruct, dropout, settings.kind == "von_mises_fisher")


def masks(objective: ObjectiveConfig) -> str | None:
    """The key by which tokens are masked; None where none are."""
    if objective.mlm is not None:
        return "objective.mlm"
    corrupts = objective.seq2seq is not None and objective.seq2seq.corrupted > 0
    return "objective.seq2seq.corrupted" if corrupts else None


def chinese_words(
    objective: ObjectiveConfig, tokenizer: PreTrainedTokenizerFast
) -> ChineseWords | None:
    """What finds the words that are masked; None where tokens tell, or no words are.

    Raises:
        SimjaxError: As of `make_chinese_words`.
    """
    if objective.seq2seq is None or not objective.seq2seq.corrupted:
        return None
    return make_chinese_words(tokenizer)


def vocabulary_of(
    objective: ObjectiveConfig, tokenizer: PreTrainedTokenizerFast
) -> Vocabulary | None:
    """What masked tokens are drawn from; None where none are masked.

    Raises:
        UsageError: The tokenizer has no mask token.
    """
    key = masks(objective)
    if key is None:
        return None
    if tokenizer.mask_token_id is None:
        raise UsageError(f"{key} is given and the tokenizer has no mask token; remove it")
    special = tuple(sorted(tokenizer.all_special_ids))
    tokens = tokenizer.get_vocab().items()
    continues = tuple(sorted(number for token, number in tokens if token.startswith("##")))
    return Vocabulary(len(tokenizer), tokenizer.mask_token_id, special, continues)
