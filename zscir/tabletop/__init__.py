"""The tabletop world: a seed becomes small scenes, their pictures, captions, edits, a web server and benchmarks."""
