"""Which runs a sweep makes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Self

from simjax.errors import UsageError


@dataclass(frozen=True)
class SeededGrid:
    """Values of what a sweep varies, every field a tuple named as its option.

    Attributes:
        seeds: Of parameters, of the order of the data and of what is changed of it.
    """

    seeds: tuple[int, ...] = field(default=(0, 1, 2), kw_only=True)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """From what JSON has made of one.

        Raises:
            TypeError: They are of something else.
        """
        return cls(**{name: tuple(value) for name, value in values.items()})

    def check_values(self) -> None:
        """Whether everything has a value, and seeds are seeds.

        Raises:
            UsageError: With the option at fault.
        """
        for name, values in dataclasses.asdict(self).items():
            if not values:
                raise UsageError(f"--{name}: give at least one")
        for seed in self.seeds:
            if not 0 <= seed < 2**32:
                raise UsageError(f"--seeds {seed}: give whole numbers from 0 to {2**32 - 1}")
