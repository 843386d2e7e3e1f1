"""Losses as pure functions, one idea a file: `kl`, `entropy`, `patch_gan`."""
