"""Store artifacts: immutable folders closed by a manifest, in a folder or on S3, one writer per key."""
