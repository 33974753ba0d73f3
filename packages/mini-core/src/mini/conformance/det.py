from .base import Suite


class DetSuite(Suite):
    """tmp"""
