"""Training: the configuration of a run, the step, the loop and what it writes."""
