"""Record what each run did in Parquet tables under ``STORE/lineage/RUN_ID/``, and query them."""
