"""Training: packed triplets and a method become a trained method, resumable after any crash to the same bytes."""
