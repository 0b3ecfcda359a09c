"""Hard negatives: texts that a model takes for near an anchor though they do not belong to it."""
