"""The mathematics of randomized smoothing: bounds, radii, noise and the smoothed classifier."""

from macer.smoothing.classifier import ABSTAIN, Certificate, HardAndSoft, SmoothedClassifier
from macer.smoothing.kinds import Hard, Kind, Soft

__all__ = ["ABSTAIN", "Certificate", "Hard", "HardAndSoft", "Kind", "SmoothedClassifier", "Soft"]
