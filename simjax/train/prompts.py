"""What sources put before their texts, as prompts of the model that learns from them."""

from __future__ import annotations

from simjax.data.config import DataConfig
from simjax.sentence_encoder import SentenceEncoder


def of_sources(data: DataConfig) -> dict[str, str] | None:
    """The prompts `query` and `document` of the sources that have any; none, if no source has.

    Returns:
        None where sources have different ones.
    """
    alone = data.views in ("dropout", "single")  # anchors are all that is read
    found = {
        (source.anchor_prefix, source.anchor_prefix if alone else source.document_prefix)
        for source in data.all_sources
    } - {("", "")}
    if len(found) > 1:
        return None
    return {name: text for pair in found for name, text in zip(_NAMES, pair, strict=True)}


_NAMES = ("query", "document")


def told(data: DataConfig, encoder: SentenceEncoder) -> str:
    """What a run says of the prompts that scores are taken with; nothing where there are none."""
    default, own = encoder.default_prompt, of_sources(data)
    parts = []
    if default is not None and encoder.prompts[default]:
        parts.append(f"texts are scored behind the model's prompt {encoder.prompts[default]!r}")
    if own is None:
        parts.append("the sources' prompts differ: scores are taken without them")
    elif own:
        shown = " and ".join(repr(text) for text in own.values())
        parts.append(f"the sources' prompts {shown} are for retrieval's queries and documents")
    return "".join(f"; {part}" for part in parts)
