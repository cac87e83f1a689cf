"""Trained networks: runs, files, exported networks and the zoo."""
