"""Records of certificates: their file formats, metrics, tables and plots."""

from macer.results.metrics import (
    Estimate,
    average_certified_radius,
    certified_accuracy,
    certified_accuracy_interval,
)
from macer.results.reading import read_records
from macer.results.records import Records

__all__ = [
    "Estimate",
    "Records",
    "average_certified_radius",
    "certified_accuracy",
    "certified_accuracy_interval",
    "read_records",
]
