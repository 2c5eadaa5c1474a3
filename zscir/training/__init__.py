"""Training of a method on packed triplets, on one or more ranks, resumable after any crash to the same bytes."""
