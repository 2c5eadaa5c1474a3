"""Lineage: what each run did becomes four Parquet tables under ``STORE/lineage/RUN_ID/``."""
