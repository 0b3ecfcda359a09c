"""Evaluation of sentence embeddings: similarity, retrieval, geometry.

Everything here takes an `encode` callable, so that it judges any encoder: ours, a peer's, or a
baseline that is not a neural network at all.
"""
