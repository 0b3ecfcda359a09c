"""Processes that compute together: how they find each other, agree, and notice that one is gone.

Nothing here computes: what processes tell each other goes through the key-value store that JAX's
distributed runtime keeps on process 0, which works when collectives do not.
"""
