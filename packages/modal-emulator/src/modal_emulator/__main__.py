"""`python -m modal_emulator` is `modal-emulator`."""

from __future__ import annotations

from .cli import main

if __name__ == "__main__":
    main(prog_name="modal-emulator")
