"""macer: train image classifiers to be provably robust, and prove it."""

from macer.smoothing import ABSTAIN, Certificate, Hard, HardAndSoft, SmoothedClassifier, Soft

__version__ = "0.1.0"

__all__ = ["ABSTAIN", "Certificate", "Hard", "HardAndSoft", "SmoothedClassifier", "Soft", "__version__"]
