"""`python -m mini` is the command `mini`."""

from .cli import main

main(prog_name="mini")
