"""mini's local pool against other pools, side by side in one run: `./go bench`."""
