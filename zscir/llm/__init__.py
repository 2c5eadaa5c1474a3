"""Language models that write modification texts: from two captions, the request that leads from one to the other."""
