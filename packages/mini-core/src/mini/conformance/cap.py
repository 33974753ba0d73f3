from .base import Suite


class CapSuite(Suite):
    """tmp"""
