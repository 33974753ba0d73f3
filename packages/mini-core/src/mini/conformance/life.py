from .base import Suite


class LifeSuite(Suite):
    """tmp"""
