"""Checkpoints of a run: saved in the background, checked by their sums, restored on any mesh."""
