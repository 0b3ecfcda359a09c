"""Texts written by a model with a decoder, token by token with a cache."""
