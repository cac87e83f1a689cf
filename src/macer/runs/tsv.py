"""Former names, for the certification that is being rewritten."""

from macer.runs.certificates import HEADER, Row
from macer.runs.certificates import read_certificates as read_tsv

__all__ = ["HEADER", "Row", "read_tsv"]
