"""The stages, one file each, imported by name when needed; they never import each other."""
