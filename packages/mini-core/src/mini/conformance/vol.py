from .base import Suite


class VolSuite(Suite):
    """tmp"""
