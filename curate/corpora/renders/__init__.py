"""Procedural renders, one family a file: what `synthetic:` draws."""
