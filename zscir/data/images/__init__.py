"""Decode, fingerprint and shard images."""
