"""macer: train image classifiers to be provably robust, and prove it."""

from typing import TYPE_CHECKING, Any

from macer.smoothing import ABSTAIN, Certificate, Hard, HardAndSoft, SmoothedClassifier, Soft

__version__ = "0.1.0"

if TYPE_CHECKING:
    from macer.pretrained.find import load_smoothed
    from macer.results.results import load_results as load

__all__ = [
    "ABSTAIN",
    "Certificate",
    "Hard",
    "HardAndSoft",
    "SmoothedClassifier",
    "Soft",
    "__version__",
    "load",
    "load_smoothed",
]


def __getattr__(name: str) -> Any:
    if name == "load_smoothed":  # it needs much that smoothing alone does not; load, too
        from macer.pretrained.find import load_smoothed

        return load_smoothed
    if name == "load":
        from macer.results.results import load_results

        return load_results
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
