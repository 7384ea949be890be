"""Every PyTorch module of onnxpool under one name: ``from onnxpool import nn; nn.SoftPool2d(3, stride=2, padding=1)``.

The modules live in the method files of :mod:`onnxpool.pools`; what those list in ``__all__`` stands here too, spelled
out for type checkers and editors.
"""

from typing import TYPE_CHECKING, Any

from onnxpool.pools.ada import AdaPool1d, AdaPool2d, AdaPool3d
from onnxpool.pools.adaptive_average import AdaptiveAvgPool1d, AdaptiveAvgPool2d, AdaptiveAvgPool3d
from onnxpool.pools.adaptive_max import AdaptiveMaxPool1d, AdaptiveMaxPool2d, AdaptiveMaxPool3d
from onnxpool.pools.adaptive_polyphase import (
    AdaptivePolyphasePool1d,
    AdaptivePolyphasePool2d,
    AdaptivePolyphasePool3d,
)
from onnxpool.pools.attention import AttentionPool1d, AttentionPool2d, AttentionPool3d
from onnxpool.pools.attentive_statistics import AttentiveStatisticsPool
from onnxpool.pools.average import AvgPool1d, AvgPool2d, AvgPool3d
from onnxpool.pools.blur import BlurPool1d, BlurPool2d, BlurPool3d, MaxBlurPool1d, MaxBlurPool2d, MaxBlurPool3d
from onnxpool.pools.detail_preserving import DetailPreservingPool2d
from onnxpool.pools.detail_preserving_downscale import DetailPreservingDownscale, DetailPreservingDownscale2d
from onnxpool.pools.gated import GatedPool1d, GatedPool2d, GatedPool3d
from onnxpool.pools.generalized_mean import GeM, GeM1d, GeM2d, GeM3d
from onnxpool.pools.global_average import GlobalAvgPool1d, GlobalAvgPool2d, GlobalAvgPool3d
from onnxpool.pools.learned_mixed import LearnedMixedPool1d, LearnedMixedPool2d, LearnedMixedPool3d
from onnxpool.pools.local_importance import (
    BottleneckLogit1d,
    BottleneckLogit2d,
    BottleneckLogit3d,
    LocalImportancePool1d,
    LocalImportancePool2d,
    LocalImportancePool3d,
    ProjectionLogit1d,
    ProjectionLogit2d,
    ProjectionLogit3d,
    SimplifiedLogit1d,
    SimplifiedLogit2d,
    SimplifiedLogit3d,
    SoftGate,
)
from onnxpool.pools.log_sum_exp import LogSumExpPool1d, LogSumExpPool2d, LogSumExpPool3d
from onnxpool.pools.max import MaxPool1d, MaxPool2d, MaxPool3d
from onnxpool.pools.mixed import MixedPool1d, MixedPool2d, MixedPool3d
from onnxpool.pools.power_average import PowerAvgPool1d, PowerAvgPool2d, PowerAvgPool3d
from onnxpool.pools.soft import SoftPool1d, SoftPool2d, SoftPool3d
from onnxpool.pools.stochastic import StochasticPool1d, StochasticPool2d, StochasticPool3d
from onnxpool.pools.stochastic_detail_preserving import S3DetailPreservingPool2d
from onnxpool.pools.token import TokenPool
from onnxpool.pools.tree import TreePool1d, TreePool2d, TreePool3d

__all__ = [
    "AdaPool1d",
    "AdaPool2d",
    "AdaPool3d",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AdaptivePolyphasePool1d",
    "AdaptivePolyphasePool2d",
    "AdaptivePolyphasePool3d",
    "AttentionPool1d",
    "AttentionPool2d",
    "AttentionPool3d",
    "AttentiveStatisticsPool",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "BlurPool1d",
    "BlurPool2d",
    "BlurPool3d",
    "BottleneckLogit1d",
    "BottleneckLogit2d",
    "BottleneckLogit3d",
    "DetailPreservingDownscale",
    "DetailPreservingDownscale2d",
    "DetailPreservingPool2d",
    "GatedPool1d",
    "GatedPool2d",
    "GatedPool3d",
    "GeM",
    "GeM1d",
    "GeM2d",
    "GeM3d",
    "GlobalAvgPool1d",
    "GlobalAvgPool2d",
    "GlobalAvgPool3d",
    "LearnedMixedPool1d",
    "LearnedMixedPool2d",
    "LearnedMixedPool3d",
    "LocalImportancePool1d",
    "LocalImportancePool2d",
    "LocalImportancePool3d",
    "LogSumExpPool1d",
    "LogSumExpPool2d",
    "LogSumExpPool3d",
    "MaxBlurPool1d",
    "MaxBlurPool2d",
    "MaxBlurPool3d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MixedPool1d",
    "MixedPool2d",
    "MixedPool3d",
    "PowerAvgPool1d",
    "PowerAvgPool2d",
    "PowerAvgPool3d",
    "ProjectionLogit1d",
    "ProjectionLogit2d",
    "ProjectionLogit3d",
    "S3DetailPreservingPool2d",
    "SimplifiedLogit1d",
    "SimplifiedLogit2d",
    "SimplifiedLogit3d",
    "SoftGate",
    "SoftPool1d",
    "SoftPool2d",
    "SoftPool3d",
    "StochasticPool1d",
    "StochasticPool2d",
    "StochasticPool3d",
    "TokenPool",
    "TreePool1d",
    "TreePool2d",
    "TreePool3d",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        raise AttributeError(f"onnxpool.nn has no {name!r}; it has {', '.join(__all__)}")

    def __dir__() -> list[str]:
        return __all__
