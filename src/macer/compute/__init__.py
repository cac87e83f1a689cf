"""What computes, and what a person sees of it: devices, processes, seeds, progress and interruption."""
