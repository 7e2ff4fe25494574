"""Pages in chromium, of the path or named by CHROMIUM; a page that complains or asks for something elsewhere fails."""

import os
import shutil
from urllib.parse import unquote

import pytest


@pytest.fixture(scope="session")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install '.[browser]'")
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    assert path, "no chromium: install it (apt-get install chromium) or name one by CHROMIUM"
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """open_page(address, (width, height), beginnings of the addresses that it may ask for, **options) -> the page.

    The options are those of a browser's context.
    """
    contexts, complaints, elsewhere = [], [], []

    def open_page(address, size, within=("file://",), **options):
        def asked(request):
            if not (url := unquote(request.url)).startswith(within):
                elsewhere.append(url)

        viewport = dict(zip(("width", "height"), size, strict=True))
        contexts.append(browser.new_context(viewport=viewport, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("request", asked)
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints
    assert not elsewhere
