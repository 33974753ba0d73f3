"""Makes docs/pictures from a real run of examples/digits in a real terminal: python docs/make_pictures.py [FOLDER]"""

from __future__ import annotations

import io
import re
import sys
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.style import Style
from rich.terminal_theme import TerminalTheme
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "packages" / "mini-core" / "tests"))

from pty_terminal import Terminal  # noqa: E402

COLUMNS, ROWS = 96, 24
"""Enough of them for whatever a sweep says before the moment that is shown; those that are empty are not shown."""
PATIENCE = 280.0
"""Seconds for half of the sweep, which takes ten on a machine that has nothing else to do."""
# The eight colours of a terminal, and the same in bright.
NORMAL = "484f58 ff7b72 3fb950 d29922 58a6ff bc8cff 39c5cf b1bac4"
BRIGHT = "6e7681 ffa198 56d364 e3b341 79c0ff d2a8ff 56d4dd f0f6fc"

# Rich's own has a web font, which a page of a repository does not load, and room for a title.
SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" class="rich-terminal">
<style>
.{unique_id}-matrix {{
  font: {char_height}px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  line-height: {line_height}px;
}}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def screenshot(terminal: Terminal) -> list[Text]:
    """The terminal's screen as it is, with its colours."""
    rows = []
    for number in range(terminal.screen.lines):
        chars = [terminal.screen.buffer[number][column] for column in range(terminal.screen.columns)]
        row = Text()
        for style, run in groupby(chars, lambda char: Style(color=color(char.fg), bold=char.bold)):
            row.append("".join(char.data for char in run), style)
        row.rstrip()
        rows.append(row)
    while not rows[-1]:
        rows.pop()
    return rows


def color(name: str) -> str | None:
    """A colour of the emulator's in the words of the renderer."""
    if name == "default":
        return None
    if re.fullmatch("[0-9a-f]{6}", name):
        return f"#{name}"
    return {"brown": "yellow"}.get(name, name.replace("bright", "bright_"))


def rgb(name: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(name)
    return red, green, blue


def save(rows: list[Text], path: Path) -> None:
    console = Console(
        record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    console.print(*rows, sep="\n", soft_wrap=True)
    theme = TerminalTheme(
        (13, 17, 23), (201, 209, 217), list(map(rgb, NORMAL.split())), list(map(rgb, BRIGHT.split()))
    )
    svg = console.export_svg(title="", theme=theme, code_format=SVG, unique_id="mini")
    path.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n")


def main() -> None:
    pictures = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "pictures"
    pictures.mkdir(exist_ok=True)
    # What a user types, and what ./go makes of it.
    command = 'printf "\\033[32m$\\033[m ./go demo\\n"; exec "$0" "$@"'
    sweep = [sys.executable, ROOT / "examples/digits/sweep.py", "--out", pictures / "digits-sweep.png"]
    with Terminal(
        ["sh", "-c", command, *map(str, sweep)], rows=ROWS, columns=COLUMNS, cwd=pictures
    ) as terminal:

        def telling() -> bool:
            """In the second half, with two workers in the middle of a call."""
            screen = "\n".join(terminal.lines)
            done, inside = re.search(r" (\d+)/36 ", screen), re.findall(r" (\d+)/30 epochs", screen)
            return (
                done is not None and int(done[1]) >= 18 and sum(5 < int(epoch) < 26 for epoch in inside) >= 2
            )

        terminal.until(telling, PATIENCE)
        save(screenshot(terminal), pictures / "live-display.svg")
        assert terminal.finish(PATIENCE) == 0, "\n".join(terminal.everything)


if __name__ == "__main__":
    main()
