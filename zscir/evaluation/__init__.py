"""Evaluation: where a method and a benchmark meet; pictures become features, features become results."""
