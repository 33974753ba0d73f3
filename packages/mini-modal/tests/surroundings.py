"""Takes what a machine's own settings are out of this process's environment, before modal is imported.

Unless the tests are to run on Modal itself, which may need all of them.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = ["LIVE", "OUTSIDE"]

LIVE = os.environ.get("MINI_MODAL_LIVE", "") not in ("", "0")
"""Whether the tests run on Modal itself."""

OUTSIDE = dict(os.environ)
"""The environment as it was: what reaches a package index by the machine's proxy and CA needs it."""

_CLEARED = {
    "ssl_cert_file",
    "ssl_cert_dir",
    "requests_ca_bundle",
    "curl_ca_bundle",
    "ci",
    "browser",
    "display",
}
_CLEARED |= {f"{scheme}_proxy" for scheme in ("http", "https", "all", "no")}

if OUTSIDE.get("CI"):
    # The other sign by which pytest knows that nobody watches, and cuts no message short.
    os.environ["BUILD_NUMBER"] = "0"

if not LIVE:
    for _name in OUTSIDE:
        if _name.startswith("MODAL_") or _name.lower() in _CLEARED:
            del os.environ[_name]
    # Modal reads where its file is when it is imported: not the file of whoever runs the tests.
    os.environ["MODAL_CONFIG_PATH"] = str(
        Path(tempfile.gettempdir(), f"no-such-folder-{os.getpid()}", "modal.toml")
    )
