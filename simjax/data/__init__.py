"""From raw text to packed batches: sources, the token store, packing, the pipeline."""
