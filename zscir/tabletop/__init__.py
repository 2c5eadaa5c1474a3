"""The tabletop world: small scenes drawn from a seed, their pictures, captions, edits, web server and benchmarks."""
