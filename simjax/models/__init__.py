"""Sentence encoders in Flax NNX, and their weights in and out of the Hugging Face world."""
