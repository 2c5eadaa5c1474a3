"""Language models: two captions become a short request that leads from one picture to the other."""
