"""Get images and captions from lists, archives and the web into shards."""
