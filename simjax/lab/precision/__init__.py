"""The float-error study: what InfoNCE loses to rounding, and what that costs in training.

Part one measures the gradient of each way to write the loss against float64. Part two trains small
encoders with them and compares the scores seed by seed. Every measurement is a line of a file, and
the report is made from those lines alone.
"""
