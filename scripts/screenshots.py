"""Take the pictures of docs/images: every page, wide and narrow, light and dark.

``make screenshots``, or ``python scripts/screenshots.py learn`` for some pages only.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

from dashboard_browser import ROOT, launched, missing, registered, served, settle, watch

SIZES = {"wide": (1440, 900), "narrow": (390, 844)}
SCHEMES = ("light", "dark")
LIMIT_BYTES = 300_000
FOLDER = ROOT / "docs" / "images"

TOP_PIXELS = 76  # below the menu, with a little room


class View(NamedTuple):
    """What is photographed of a page: a link, and the words that come to stand at the top.

    No words: the page as it opens. A narrow page begins with a screenful of inputs.
    """

    link: str = ""
    wide: str = ""
    narrow: str = ""


# Small runs, so that what is photographed is an answer.
VIEWS = {
    "plan": View(narrow="Where the memory goes"),
    "simulate": View("?requests=1000", wide="Output tokens per second", narrow="The pool at"),
    "compare": View(
        "?requests=1000", wide="Where the pool's slots go", narrow="Where the pool's slots go"
    ),
    "cache": View(wide="Hit ratio against cache size", narrow="Hit ratio against cache size"),
    "size": View("?requests=1000", wide="Cheapest", narrow="Cheapest"),
    "calibrate": View(narrow="Measured, beside the datasheet"),
    "learn": View("?lesson=4", narrow="Contiguous"),
}


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
    view = VIEWS.get(name, View())
    page.goto(f"{address}/{registered()[name]}{view.link}")
    page.get_by_role("heading", level=1).wait_for()
    settle(page)
    page.evaluate("document.fonts.ready")
    scroll(page, view.wide if size == "wide" else view.narrow)
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


def scroll(page: Any, words: str) -> None:
    """Bring words to the top of the page."""
    if words:
        found = page.get_by_text(words).first.bounding_box()
        page.get_by_test_id("stMain").evaluate(
            f"each => each.scrollBy(0, {found['y'] - TOP_PIXELS})"
        )
        settle(page)


if __name__ == "__main__":
    main(sys.argv[1:])
