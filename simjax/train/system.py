"""The system of a configuration: what is trained, and by which losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from simjax.errors import UsageError
from simjax.models import hf
from simjax.models.decoder import read as read_decoder
from simjax.models.encoder import EncoderConfig, Remat
from simjax.models.lm_head import LanguageModelHead, token_losses
from simjax.models.sentence_model import SentenceModel, merge, split
from simjax.objectives.config import MaskedLmConfig, ObjectiveConfig, Seq2SeqConfig
from simjax.objectives.contrastive import Views
from simjax.objectives.masked_lm import MaskedLm, Vocabulary
from simjax.objectives.seq2seq import Seq2Seq
from simjax.objectives.system import ContrastiveSystem
from simjax.train import lora
from simjax.train.config import RunConfig
from simjax.types import Batch, Params

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def make_system(
    config: RunConfig,
    graphdef: Any,
    encoder: EncoderConfig,
    num_positives: int,
    vocabulary: Vocabulary | None,
    heads: Mapping[str, LanguageModelHead],
) -> ContrastiveSystem:
    """The system of a configuration: one tower and its contrastive objective.

    Args:
        config: Of the run.
        graphdef: Structure of the model.
        encoder: Its shape.
        num_positives: Positives of an example.
        vocabulary: What masked tokens are drawn from, where some are.
        heads: What is trained with the encoder.
    """
    dropout = encoder.hidden_dropout > 0 or encoder.attention_dropout > 0

    def model_of(params: Params) -> SentenceModel:
        return merge(graphdef, lora.merged(params, config.model.lora))

    def encode(params: Params, batch: Batch, dropout_key: Any, gather_layer: Any) -> jax.Array:
        return model_of(params)(
            batch.block,
            dropout_key=dropout_key,
            place=jnp.asarray(batch.place),
            gather_layer=gather_layer,
            remat=config.train.remat,
        )

    separable = None
    if config.objective.mlm is not None:
        assert vocabulary is not None  # of the tokenizer
        separable = masked_lm(
            config.objective.mlm,
            model_of,
            heads["lm_head"],
            vocabulary,
            dropout=dropout,
            remat=config.train.remat,
        )
    alongside = None
    if config.objective.seq2seq is not None:
        alongside = seq2seq(
            config.objective.seq2seq,
            model_of,
            heads["lm_head"],
            vocabulary,
            dropout=dropout,
            remat=config.train.remat,
        )
    return ContrastiveSystem(
        encode=encode,
        objective=config.objective,
        views=Views(
            positives=num_positives,
            one_distribution=config.data.views == "dropout",
            group=config.data.block,
        ),
        dropout=dropout,
        dtype=jnp.dtype(config.model.dtype),
        exchange=config.mesh.keys,
        separable=separable,
        alongside=alongside,
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
    """The auxiliary loss of an encoder whose parameters are `model` and its head's `lm_head`."""
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
        return token_losses(merge(head_graph, params["lm_head"]), table, states, where, targets)

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
    """The loss alongside of an encoder whose parameters are `model` and its head's `lm_head`."""
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
        table, own = model.encoder.embeddings.word.embedding[...], params["lm_head"]
        losses, right = token_losses(merge(head_graph, own), table, states, where, targets)
        return vectors, losses, right

    corrupted = vocabulary if config.corrupted else None
    return Seq2Seq(config, embed_and_predict, dropout, corrupted)


def make_heads(config: RunConfig, encoder: EncoderConfig) -> dict[str, LanguageModelHead]:
    """Heads that are trained with the encoder.

    They start from the pretrained folder's where it has them, at random otherwise.
    """
    if config.objective.mlm is None and config.objective.seq2seq is None:
        return {}
    # The encoder draws from the seed's own key.
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    head = LanguageModelHead(encoder, rngs=nnx.Rngs(params=key))
    name = config.model.pretrained
    if name is None:
        return {"lm_head": head}
    folder = hf.resolve(name)
    decoder = read_decoder(folder, encoder)
    if decoder is not None:
        return {"lm_head": decoder.head}
    params = hf.load_lm_head(folder, encoder)
    if params is not None:
        head = merge(split(head)[0], jax.tree.map(jnp.asarray, params))
    return {"lm_head": head}


def masks(objective: ObjectiveConfig) -> str | None:
    """The key by which tokens are masked; None where none are."""
    if objective.mlm is not None:
        return "objective.mlm"
    corrupts = objective.seq2seq is not None and objective.seq2seq.corrupted > 0
    return "objective.seq2seq.corrupted" if corrupts else None


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
