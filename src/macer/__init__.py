"""macer: train image classifiers to be provably robust, and prove it."""

import warnings
from typing import TYPE_CHECKING, Any

from macer.smoothing import ABSTAIN, Certificate, Certificates, Hard, SmoothedClassifier, Soft

__version__ = "0.1.0"

if TYPE_CHECKING:
    from macer.pretrained.find import load_model
    from macer.results.results import load_results

__all__ = [
    "ABSTAIN",
    "Certificate",
    "Certificates",
    "Hard",
    "SmoothedClassifier",
    "Soft",
    "__version__",
    "load_model",
    "load_results",
]


_RENAMED = {"load": "load_results", "load_smoothed": "load_model"}


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        warnings.warn(f"macer.{name} is now called macer.{_RENAMED[name]}", DeprecationWarning, stacklevel=2)
        name = _RENAMED[name]
    if name == "load_model":  # it needs much that smoothing alone does not; load_results, too
        from macer.pretrained.find import load_model

        return load_model
    if name == "load_results":
        from macer.results.results import load_results

        return load_results
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
