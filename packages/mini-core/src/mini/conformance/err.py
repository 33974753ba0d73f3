from .base import Suite


class ErrSuite(Suite):
    """tmp"""
