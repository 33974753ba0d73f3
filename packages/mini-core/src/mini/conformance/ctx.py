from .base import Suite


class CtxSuite(Suite):
    """tmp"""
