"""Modal's own command line, with the trust that this machine has: `python -m mini_modal.modal_command`.

`modal serve` runs the app in processes that import this module again, so the trust is established at its top.
"""

from __future__ import annotations

import sys

from mini_modal import ensure_grpc_trusts_system_ca

__all__ = ["main"]

ensure_grpc_trusts_system_ca()


def main() -> None:
    from modal.__main__ import main as modal_main

    # Usage lines are to say `modal`, and not how it was started.
    sys.argv[0] = "modal"
    globals()["__package__"] = None
    modal_main()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
