"""The hosts that have to be reachable, all on TCP port 443; docs/reference/modal-egress.md has what each is for."""

from __future__ import annotations

__all__ = ["EGRESS"]

EGRESS = (
    "api.modal.com",
    "api.modal2.com",
    "modal.com",
    "*.modal.com",
    "*.modal.run",
    "*.modal.direct",
    "*.modal.host",
    "*.amazonaws.com",
    "*.r2.cloudflarestorage.com",
)
