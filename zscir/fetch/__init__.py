"""Fetching: URLs of strangers become vetted image bytes, within the bounds and manners that a FetchSpec states.

img2dataset never meets the outside: it asks a gateway on loopback for `/<image_key>`; the gateway fetches the real URL.
"""
