"""Bounds: how large what comes from strangers may be, wherever it is met."""

# Pillow warns from here on and refuses from twice as many.
HARD_MAX_PIXELS = 89_478_485
