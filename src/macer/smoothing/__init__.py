"""The mathematics of randomized smoothing: bounds, radii, noise and the smoothed classifier."""

from macer.smoothing.certificate import ABSTAIN, Certificate, Certificates
from macer.smoothing.classifier import SmoothedClassifier
from macer.smoothing.kinds import Hard, Kind, Soft

__all__ = ["ABSTAIN", "Certificate", "Certificates", "Hard", "Kind", "SmoothedClassifier", "Soft"]
