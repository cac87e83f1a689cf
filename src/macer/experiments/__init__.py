"""Whole experiments of several trainings and certifications: the demo, the ablation, the original's command line."""
