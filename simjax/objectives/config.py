"""The choice of objective, each with options of its own."""

from __future__ import annotations

from typing import TypeAlias

from simjax.objectives.contrastive_config import ContrastiveConfig as ContrastiveConfig
from simjax.objectives.contrastive_config import GuideConfig as GuideConfig
from simjax.objectives.contrastive_config import InBatchTensionConfig as InBatchTensionConfig
from simjax.objectives.contrastive_config import SigmoidConfig as SigmoidConfig
from simjax.objectives.contrastive_config import TensionConfig as TensionConfig
from simjax.objectives.shared_config import MaskedLmConfig as MaskedLmConfig
from simjax.objectives.shared_config import MatryoshkaConfig as MatryoshkaConfig
from simjax.objectives.shared_config import Seq2SeqConfig as Seq2SeqConfig
from simjax.objectives.supervised_config import AngleConfig as AngleConfig
from simjax.objectives.supervised_config import CosentConfig as CosentConfig
from simjax.objectives.supervised_config import CosineConfig as CosineConfig
from simjax.objectives.supervised_config import DistillationConfig as DistillationConfig
from simjax.objectives.supervised_config import RDropConfig as RDropConfig
from simjax.objectives.supervised_config import SoftmaxConfig as SoftmaxConfig
from simjax.objectives.supervised_config import TripletConfig as TripletConfig
from simjax.objectives.vae_config import VaeConfig as VaeConfig

ObjectiveConfig: TypeAlias = (
    ContrastiveConfig
    | SigmoidConfig
    | TensionConfig
    | InBatchTensionConfig
    | CosineConfig
    | CosentConfig
    | AngleConfig
    | SoftmaxConfig
    | TripletConfig
    | DistillationConfig
    | VaeConfig
)
"""What is minimised."""


def frozen_model(objective: ObjectiveConfig) -> tuple[str, str] | None:
    """The model whose embeddings of the texts an objective asks for: the key, and its value."""
    if isinstance(objective, ContrastiveConfig) and objective.guide is not None:
        return "objective.guide.model", objective.guide.model
    if isinstance(objective, DistillationConfig):
        return "objective.teacher", objective.teacher
    return None
