"""What the README of an exported model says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from simjax import __version__
from simjax.models.decoder import Decoder
from simjax.models.sentence_model import SentenceModel
from simjax.postprocess.flow import Flow

WITHOUT_FLOW = (
    "sentence-transformers and transformers load this folder without its flow, as the encoder that "
    "the flow was fitted on; simjax applies the flow"
)
"""What whoever exports or loads a model with a flow has to know."""

WITHOUT_LATENTS = (
    "sentence-transformers and transformers load this folder without its latents and its decoder, "
    "as the encoder whose pooling the embedding is; simjax reads the latents"
)
"""What whoever exports or loads a model with latents has to know."""


def left_out(flow: Flow | None, decoder: Decoder | None) -> list[str]:
    """What has to be said of a model, since others do not load all of it."""
    latents = decoder is not None and decoder.latents is not None
    return [*([] if flow is None else [WITHOUT_FLOW]), *([WITHOUT_LATENTS] if latents else [])]


@dataclass(frozen=True)
class ModelCard:
    """What the README of an exported model says beside its use.

    Attributes:
        name: Title; by default the name of the folder.
        base_model: What training started from.
        systems: The published systems that it was trained by, with their sources.
        recipe: The run's configuration, as nested dictionaries.
        scores: Measured scores by name, such as `stsb-dev/spearman`.
        language: Language codes of the training text.
        license: Licence of the model.
        notes: What else there is to say, in paragraphs.
    """

    name: str | None = None
    base_model: str | None = None
    systems: tuple[str, ...] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    language: tuple[str, ...] = ()
    license: str | None = None
    notes: tuple[str, ...] = ()


def readme(
    card: ModelCard,
    name: str,
    model: SentenceModel,
    modules: list[str],
    max_length: int,
    flow: Flow | None,
    decoder: Decoder | None,
) -> str:
    """The README.

    Args:
        card: What it says beside the use.
        name: Of the folder.
        model: The model.
        modules: Those of sentence-transformers.
        max_length: Tokens beyond which a text is cut.
        flow: What the model's vectors go through.
        decoder: What it writes texts with.
    """
    title = card.name or name
    size = model.embedding_size if flow is None else flow.config.rank
    header: dict[str, Any] = {
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": ["sentence-transformers", "sentence-similarity", "feature-extraction", "simjax"],
    }
    if card.language:
        header["language"] = list(card.language)
    if card.license:
        header["license"] = card.license
    # The hub rejects a card whose base model is no model name; a folder is none.
    if card.base_model and card.base_model.count("/") <= 1 and not Path(card.base_model).exists():
        header["base_model"] = card.base_model
    made = "trained" if card.recipe else "written"  # which others may have trained
    stage = ", from a pretrained model," if card.base_model else ""
    trained = f"* Trained{stage} by: {', '.join(card.systems)}\n" if card.systems else ""
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---",
        f"# {title}",
        f"A sentence encoder {made} with simjax {__version__}. It maps texts to"
        f" {size} dimensions, in which cosine similarity stands for similarity of"
        " meaning.",
        f"{trained}* Encoder: {model.config.family}, {model.config.num_layers} layers of width"
        f" {model.config.hidden_size}\n"
        f"* Pooling: {model.pooling}\n"
        f"* Modules: {', '.join(modules)}\n"
        f"* Longest text: {max_length} tokens",
        *card.notes,
        *(f"**{said[0].upper()}{said[1:]}.**" for said in left_out(flow, decoder)),
        "## Use",
        f"```python\nfrom sentence_transformers import SentenceTransformer\n\n"
        f"model = SentenceTransformer({title!r})\n"
        'embeddings = model.encode(["How do I remove a folder?", "Delete a directory tree"])\n```',
        f"```python\nfrom simjax import SentenceEncoder\n\n"
        f"encoder = SentenceEncoder.from_pretrained({title!r})\n"
        'encoder.build_index(["Copy a file", "Delete a directory tree"])\n'
        'encoder.search("How do I remove a folder?", top_k=1)\n```',
    ]
    if decoder is not None and decoder.latents is not None:
        settings = decoder.latents.config
        parts.append(
            f"It writes texts again from {settings.layers} latents of {settings.size} dimensions, "
            "which are an embedding, too:\n\n"
            f'```\nsimjax generate {title} "How do I remove a folder?"\n```\n\n'
            "```python\nfrom simjax import SentenceEncoder\n\n"
            f'encoder = SentenceEncoder.from_pretrained({title!r}, pooling="latents")\n```'
        )
    elif decoder is not None:
        parts.append(
            "It writes similar sentences as well, with a decoder that simjax alone reads;"
            " sentence-transformers and transformers load the encoder without it:\n\n"
            f'```\nsimjax generate {title} "How do I remove a folder?"\n```'
        )
    if card.scores:
        rows = [
            f"| {key} | {value:.2f} |" if math.isfinite(value) else f"| {key} | |"
            for key, value in card.scores.items()
        ]
        parts += [
            "## Scores",
            "Correlations and retrieval scores are times 100; perplexity is of a token.",
            "\n".join(["| score | value |", "|---|---|", *rows]),
        ]
    if card.recipe:
        recipe = yaml.safe_dump(dict(card.recipe), sort_keys=False, allow_unicode=True)
        parts += ["## Recipe", f"```yaml\n{recipe}```"]
    return "\n\n".join(parts) + "\n"
