"""mini-ray against raw Ray, on the same instance. Below this package, `import ray` is the distribution all the same."""
