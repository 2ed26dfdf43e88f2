"""The Learn page as a visitor meets it: the menu, the steps, the animation."""

import re


def test_from_the_menu_through_all_six_steps(open_page, settled):
    page = open_page("plan")
    page.get_by_role("link", name="Learn").click()
    page.get_by_role("heading", name="How a KV cache works").wait_for()
    settled(page)
    titles = []
    for step in range(1, 7):
        titles.append(page.get_by_role("heading", level=2).first.inner_text())
        assert page.locator(".js-plotly-plot .main-svg").count()
        if step < 6:
            page.get_by_role("button", name="Next").click()
            page.wait_for_url(f"**lesson={step + 1}**")
            settled(page)
    assert len(set(titles)) == 6
    assert page.get_by_role("button", name="Next").is_disabled()


def test_the_animation_plays(open_page):
    page = open_page("learn", lesson=4, step=1)
    cells = page.locator(".js-plotly-plot").first
    before = cells.evaluate("each => JSON.stringify(each.data[0].z)")
    page.locator(".updatemenu-button").filter(has_text=re.compile("Play")).first.click()
    page.wait_for_function(
        "before => JSON.stringify(document.querySelector('.js-plotly-plot').data[0].z) !== before",
        arg=before,
        timeout=10_000,
    )


def test_stepping_by_keyboard_moves_the_pool_and_the_link(open_page, settled):
    page = open_page("learn", lesson=4, step=3)
    page.get_by_role("slider").first.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**step=4**")
    settled(page)
    assert page.get_by_text("Step 4.").count() == 2  # contiguous and paged


def test_a_narrow_dark_screen(open_page):
    page = open_page("learn", lesson=4, width=390, height=844, scheme="dark")
    main = page.get_by_test_id("stMain")
    assert main.evaluate("each => each.scrollWidth <= each.clientWidth"), "it scrolls sideways"
    page.wait_for_function(
        """() => {
            const tick = document.querySelector(".js-plotly-plot .xtick text");
            return tick && getComputedStyle(tick).fill.match(/\\d+/g).every(part => part > 100);
        }""",
        timeout=20_000,
    )  # ticks are light on a dark page
