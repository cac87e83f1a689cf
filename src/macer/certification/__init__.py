"""Certification: a data set and a smoothed classifier -> a journal of certificates that survives interruption."""

from macer.certification.during_training import CertificationDuringTraining
from macer.certification.prepare import Plan, prepare
from macer.certification.run import certify_images, certify_run
from macer.certification.settings import CertificationSettings

__all__ = ["CertificationDuringTraining", "CertificationSettings", "Plan", "certify_images", "certify_run", "prepare"]
