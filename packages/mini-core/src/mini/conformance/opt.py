from .base import Suite


class OptSuite(Suite):
    """tmp"""
