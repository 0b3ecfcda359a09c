"""Texts through a model: tokens, packed calls, devices, and files of any size."""

from simjax.inference.calls import Call, calls
from simjax.inference.cutter import Cutter, longest_text

__all__ = ["Call", "Cutter", "calls", "longest_text"]
