"""Render a run's lineage and artifacts as one self-contained HTML page."""
