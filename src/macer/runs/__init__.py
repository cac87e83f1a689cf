"""The directory of a run: its lock, settings, checkpoints, metrics and certificates; one writer and one reader each."""
