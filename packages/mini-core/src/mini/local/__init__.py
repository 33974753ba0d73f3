"""The local backend: worker processes, threads or the calling thread, on this machine."""

from .apparatus import LocalApparatus

__all__ = ["LocalApparatus"]
