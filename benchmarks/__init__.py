"""Measured claims, side by side in one run: `./go bench`."""
