"""Makes docs/pictures/report.png: the report on a real sweep in a real browser: python docs/make_report_picture.py

Needs Chromium on PATH, as tests/test_report.py of mini-core does.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT = 1100, 1120


def main() -> None:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with tempfile.TemporaryDirectory() as folder:

        def run(*command: str | Path) -> None:
            subprocess.run([sys.executable, *command], cwd=folder, check=True)

        run(ROOT / "examples/digits/sweep.py", "--detach")
        run("-m", "mini", "watch", "digits")
        run("-m", "mini", "report", "digits", "--out", "report.html")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
            page.goto((Path(folder) / "report.html").as_uri())
            page.wait_for_selector("#rows tr")
            image = Image.open(io.BytesIO(page.screenshot()))
            browser.close()
        # A page has few colours, and whoever clones the repository all of its pictures.
        image.quantize(128).save(ROOT / "docs" / "pictures" / "report.png", optimize=True)


if __name__ == "__main__":
    main()
