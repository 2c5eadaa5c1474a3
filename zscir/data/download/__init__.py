"""Download images politely and safely, within the limits that a FetchSpec states.

img2dataset never meets the outside: it asks a gateway on loopback for `/<image_key>`; the gateway fetches the real URL.
"""
