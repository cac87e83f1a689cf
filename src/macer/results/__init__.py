"""Records of certificates: how they are read and written, their metrics, tables and plots."""

from macer.results.metrics import (
    Estimate,
    average_certified_radius,
    certified_accuracy,
    certified_accuracy_interval,
)
from macer.results.reading import read_records
from macer.results.records import Records
from macer.results.results import Results, load_results

__all__ = [
    "Estimate",
    "Records",
    "Results",
    "average_certified_radius",
    "certified_accuracy",
    "certified_accuracy_interval",
    "load_results",
    "read_records",
]
