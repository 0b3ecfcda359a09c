"""What is trained: contrastive objectives and the systems built from them."""
