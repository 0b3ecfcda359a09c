"""Search in embeddings: exact, quantised or by faiss; in memory or saved in a folder."""
