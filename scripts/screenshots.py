"""Take the pictures of docs/images: every page, wide and narrow, light and dark.

``make screenshots``, or ``python scripts/screenshots.py learn`` for some pages only.
"""

from __future__ import annotations

import sys
from typing import Any

from dashboard_browser import ROOT, launched, missing, registered, served, settle, watch

SIZES = {"wide": (1440, 900), "narrow": (390, 844)}
SCHEMES = ("light", "dark")
LIMIT_BYTES = 300_000
FOLDER = ROOT / "docs" / "images"

# What a page shows at its best, where that is not what it opens with.
LINKS = {"learn": "?lesson=4"}


def main(names: list[str]) -> None:
    """Photograph the named pages, or all."""
    lack = missing()
    if lack:
        raise SystemExit(f"screenshots need a browser: {lack}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with served() as address, launched() as browser:
        for name in names or registered():
            for size in SIZES:
                for scheme in SCHEMES:
                    photograph(browser, address, name, size, scheme)


def photograph(browser: Any, address: str, name: str, size: str, scheme: str) -> None:
    """Take one picture, and complain when the page is in trouble or the file too large."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    troubles = watch(page, address)
    page.goto(f"{address}/{registered()[name]}{LINKS.get(name, '')}")
    page.get_by_role("heading", level=1).wait_for()
    settle(page)
    page.evaluate("document.fonts.ready")
    path = FOLDER / f"{name}-{size}-{scheme}.png"
    page.screenshot(path=path)
    context.close()
    if troubles:
        raise SystemExit(f"{path.name}: {'; '.join(troubles)}")
    if path.stat().st_size > LIMIT_BYTES:
        raise SystemExit(
            f"{path.name} has {path.stat().st_size:,} bytes, more than {LIMIT_BYTES:,}"
        )
    sys.stdout.write(f"{path.relative_to(ROOT)}  {path.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main(sys.argv[1:])
