"""Evaluate a method on a benchmark: embed images and queries, rank, and compare the scores of several evaluations."""
