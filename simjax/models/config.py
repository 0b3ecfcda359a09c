"""The shape of an encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from simjax.errors import UsageError
from simjax.models import dropout
from simjax.models.families import ARCHITECTURES, Architecture, Family

Activation = Literal["gelu", "gelu_new", "relu", "silu"]
# What the files of these families, and of no others, can say of a model.
_OWN: dict[str, tuple[Family, ...]] = {
    "rotary_base": ("modernbert",),
    "window": ("modernbert",),
    "window_rotary_base": ("modernbert",),
    "global_every": ("modernbert",),
}


@dataclass(frozen=True)
class EncoderConfig:
    """The shape of one encoder."""

    family: Family = "bert"
    """Whose architecture and tensor names."""
    vocab_size: int = 30522
    """Rows of the token table. A random encoder takes its tokenizer's."""
    hidden_size: int = 256
    num_layers: int = 4
    num_heads: int = 4
    intermediate_size: int = 1024
    max_positions: int = 512
    """Longest text in tokens. RoBERTa's table has `pad_token_id + 1` more rows, hidden here."""
    type_vocab_size: int = 2
    activation: Activation = "gelu"
    """`gelu` is the exact one, `gelu_new` its tanh approximation."""
    layer_norm_eps: float = 1e-12
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    initializer_range: float = 0.02
    """Standard deviation of random kernels and tables."""
    pad_token_id: int = 0
    embedding_size: int | None = None
    """Width of token embeddings in ALBERT, ELECTRA and RoFormer; null is `hidden_size`."""
    rotary_base: float | None = None
    """Base of ModernBERT's angles in layers that see whole texts; null is 160,000."""
    window: int = 128
    """Tokens around a token, half on each side, that ModernBERT's local layers see."""
    window_rotary_base: float = 10_000.0
    """Base of the angles in those layers."""
    global_every: int = 3
    """Of so many ModernBERT layers the first sees whole texts, and the others windows."""
    unroll: int = 1
    """Layers per iteration of the scan: more compile time for a little speed."""

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "hidden_size",
            "num_layers",
            "num_heads",
            "intermediate_size",
            "max_positions",
            "type_vocab_size",
            "window",
            "global_every",
            "unroll",
        ):
            if getattr(self, name) < 1:
                raise UsageError(f"encoder.{name} must be at least 1, not {getattr(self, name)}")
        if self.family not in get_args(Family):
            raise UsageError(f"encoder.family {self.family!r}: choose from {get_args(Family)}")
        if self.activation not in get_args(Activation):
            choices = get_args(Activation)
            raise UsageError(f"encoder.activation {self.activation!r}: choose from {choices}")
        if self.hidden_size % self.num_heads:
            raise UsageError(
                f"encoder.hidden_size {self.hidden_size} is no multiple of "
                f"encoder.num_heads {self.num_heads}"
            )
        if self.architecture.positions == "rotary" and (self.hidden_size // self.num_heads) % 2:
            raise UsageError(
                f"encoder.hidden_size {self.hidden_size} over encoder.num_heads {self.num_heads} "
                f"is odd, and {self.family} turns pairs of features; change one of them"
            )
        self._check_own()
        for rate in (self.hidden_dropout, self.attention_dropout):
            dropout.dropped_levels(rate)

    def _check_own(self) -> None:
        """What single families alone have."""
        size, own = self.embedding_size, self.architecture
        if size is not None and (size < 1 or (size != self.hidden_size and not own.narrow)):
            raise UsageError(
                f"encoder.embedding_size {size}: {self.family} has token embeddings of width "
                f"hidden_size, which is {self.hidden_size}; leave it out"
                if not own.narrow
                else f"encoder.embedding_size must be at least 1, not {size}"
            )
        for name, of in _OWN.items():
            value, usual = getattr(self, name), type(self).__dataclass_fields__[name].default
            if value != usual and self.family not in of:
                raise UsageError(
                    f"encoder.{name} is {value}, which {self.family} does not have (only "
                    f"{', '.join(of)} does); leave it out"
                )
        for name in ("rotary_base", "window_rotary_base"):
            base = getattr(self, name)
            if base is not None and not base > 1:
                raise UsageError(f"encoder.{name} is {base}: give a number above 1")

    @property
    def architecture(self) -> Architecture:
        """What the family fixes."""
        return ARCHITECTURES[self.family]

    @property
    def two_segments(self) -> bool:
        """Whether there are two token types, which say which of two texts stands in front."""
        return self.architecture.token_types and self.type_vocab_size >= 2

    @property
    def embedding_width(self) -> int:
        """Width of the token table."""
        return self.hidden_size if self.embedding_size is None else self.embedding_size

    @property
    def projected(self) -> bool:
        """Token embeddings go through a dense layer; ALBERT's do even where widths are equal."""
        return self.family == "albert" or self.embedding_width != self.hidden_size

    @property
    def position_offset(self) -> int:
        """Row of the position table that the first token of a text reads."""
        return self.pad_token_id + 1 if self.architecture.after_padding else 0

    @property
    def stacked_layers(self) -> int:
        """Layers that have parameters of their own."""
        return 1 if self.architecture.shared else self.num_layers

    @property
    def kernels_in(self) -> int:
        """Features of the feed-forward part's first dense layer: the gate's stand behind."""
        return self.intermediate_size * (2 if self.architecture.gated else 1)
