"""The report: a run's record and artifacts become one self-contained HTML page."""
