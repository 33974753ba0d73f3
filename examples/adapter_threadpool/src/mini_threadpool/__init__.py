"""A backend for mini over the standard library's `ThreadPoolExecutor`: `mini.apparatus("threadpool", "squares")`."""

from .apparatus import ThreadPoolApparatus

__all__ = ["ThreadPoolApparatus"]
