"""From nothing to a first result, as short as a user's script can be: `python cold.py PEER` prints a line then."""

from __future__ import annotations

import os
import sys

import peers
import work

if __name__ == "__main__":
    with peers.load(sys.argv[1])(int(sys.argv[2])) as peer:
        if peer.call(work.identity, 41) == 41:
            os.write(1, b"first result\n")
