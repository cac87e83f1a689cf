"""Devices and processes to compute on, seeds, progress and interruption."""
