"""Trained networks: from whatever a person points at to a network with its weights; exported files; the zoo."""
