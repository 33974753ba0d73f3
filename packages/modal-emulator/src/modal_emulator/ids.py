"""Object ids. The client knows what an object is by the prefix of its id."""

from __future__ import annotations

import secrets
import string

__all__ = ["new_id"]

_ALPHABET = string.ascii_letters + string.digits


def new_id(prefix: str) -> str:
    """A new random id such as "fu-3Fq…", of the length that Modal's have."""
    return f"{prefix}-" + "".join(secrets.choice(_ALPHABET) for _ in range(22))
