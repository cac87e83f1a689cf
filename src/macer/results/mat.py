"""Former name, for the certification that is being rewritten."""

from macer.runs.mat import write_mat

__all__ = ["write_mat"]
