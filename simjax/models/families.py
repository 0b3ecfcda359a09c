"""The families of encoders: what all models of one have in common, whatever their size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Family: TypeAlias = Literal[
    "bert",
    "roberta",
    "xlm-roberta",
    "camembert",
    "distilbert",
    "electra",
    "mpnet",
    "albert",
    "roformer",
    "modernbert",
]
Site: TypeAlias = Literal["attention_output", "inner", "output"]
"""Where hidden states may be dropped. Embeddings and attention's probabilities always are."""
Rate: TypeAlias = Literal["hidden", "attention"]


def _usual() -> dict[Site, Rate]:
    return {"attention_output": "hidden", "output": "hidden"}


@dataclass(frozen=True)
class Architecture:
    """One family.

    Attributes:
        positions: `table`: learned, added to the token embeddings. `rotary`: queries and keys are
            turned by an angle that grows with the position (Su et al., arXiv 2104.09864).
        after_padding: The first position's row of the table is `pad_token_id + 1`.
        token_types: There is a table of token types; every token has type 0.
        norm: `after`: each residual sum is normalised (Vaswani et al. 2017). `before`: what goes
            into attention and feed-forward is, and once what comes out of the last layer. The
            first layer's attention takes the embeddings, which are normalised already.
        bias: Dense layers have one.
        norm_bias: Norms have one.
        gated: The feed-forward part is `activation(x W) * (x V)` (Shazeer, arXiv 2002.05202).
        narrow: Token embeddings may be narrower than hidden states.
        shared: All layers are one, applied many times (Lan et al., arXiv 1909.11942).
        relative: Attention scores get a learned number by distance and head, the same in all
            layers (Raffel et al., arXiv 1910.10683).
        windowed: All but each n-th layer see the neighbourhood of a token alone.
        dropped: Where hidden states are dropped in training, and at which of the two rates.
        rotary_base: Usual base of the angles.
    """

    positions: Literal["table", "rotary"] = "table"
    after_padding: bool = False
    token_types: bool = True
    norm: Literal["after", "before"] = "after"
    bias: bool = True
    norm_bias: bool = True
    gated: bool = False
    narrow: bool = False
    shared: bool = False
    relative: bool = False
    windowed: bool = False
    dropped: Mapping[Site, Rate] = field(default_factory=_usual)
    rotary_base: float = 10_000.0


_ROBERTA = Architecture(after_padding=True)
ARCHITECTURES: dict[Family, Architecture] = {
    "bert": Architecture(),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "distilbert": Architecture(token_types=False, dropped={"output": "hidden"}),
    "electra": Architecture(narrow=True),
    "mpnet": Architecture(after_padding=True, token_types=False, relative=True),
    "albert": Architecture(narrow=True, shared=True, dropped={"attention_output": "hidden"}),
    "roformer": Architecture(positions="rotary", narrow=True),
    "modernbert": Architecture(
        positions="rotary",
        token_types=False,
        norm="before",
        bias=False,
        norm_bias=False,
        gated=True,
        windowed=True,
        dropped={"attention_output": "attention", "inner": "hidden"},
        rotary_base=160_000.0,
    ),
}
"""BERT (Devlin et al., arXiv 1810.04805), RoBERTa (1907.11692), XLM-R (1911.02116), CamemBERT
(1911.03894), DistilBERT (1910.01108), ELECTRA (2003.10555), MPNet (2004.09297), ALBERT
(1909.11942), RoFormer (2104.09864), ModernBERT (2412.13663)."""
