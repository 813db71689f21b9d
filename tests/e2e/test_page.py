"""The page at `/` in a real browser, served by the real gateway in front of the fake engine.

Screenshots are left in `$SPARKSTACK_TEST_OUTPUT`, or in pytest's temporary folder: look at them after a change.
"""

import asyncio
import json
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, Route, async_playwright, expect

from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings
from services.kit.settings import load_settings
from tests.testkit.engine import FakeEngine
from tests.testkit.fake_engines_service import FakeModel, fake_engines
from tests.testkit.fake_services import ANSWER as ANSWER_WITH_SOURCES
from tests.testkit.fake_services import FakeRag, fake_embeddings, fake_rag
from tests.testkit.server import eventually, fake_engine, running

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

KEY = "sk-page-test-0123456789"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PHONE = {"width": 360, "height": 740}
DESKTOP = {"width": 1440, "height": 900}

ANSWER = """A request passes through the gateway as it came:

```python
def first_token(events):
    return next(event for event in events if event.choices)  # <b>text, not markup</b>
```

Usage is read beside the relay, so a chunk is never held back."""


class Visit:
    """A page that is open, and what went wrong on it."""

    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        self.origin = origin
        self.complaints: list[str] = []
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        page.on("request", self._on_request)

    def _on_console(self, message: Any) -> None:
        # The browser itself reports each answer of 400 and above; tests that provoke one look at the page instead.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.complaints.append(f"console {message.type}: {message.text}")

    def _on_request(self, request: Any) -> None:
        if not request.url.startswith((f"{self.origin}/", "data:")):
            self.complaints.append(f"left the origin: {request.url}")
        if request.url.endswith("favicon.ico"):
            self.complaints.append("asked for a favicon")

    async def ask(self, question: str) -> None:
        await self.page.get_by_label("Message").fill(question)
        await self.page.get_by_label("Message").press("Enter")

    async def ended(self) -> None:
        await expect(self.page.get_by_role("button", name="Send")).to_be_visible(timeout=20_000)

    @property
    def model_state(self) -> Any:
        row = self.page.locator("#models li", has_text="fake-chat").filter(has_not_text="embed")
        return row.locator(".state")

    @property
    def answer(self) -> Any:
        return self.page.locator("[data-part=answer]").last


Open = Callable[..., AbstractAsyncContextManager[Visit]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium, so the page is NOT tested; install `chromium`, or set CHROMIUM=PATH")
    expect.set_options(timeout=15_000)  # for a machine with other things to do
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def engine() -> AsyncIterator[FakeEngine]:
    async with fake_engine(tokens_per_s=40, ttft_ms=60) as engine:
        yield engine


@asynccontextmanager
async def gateway_before(engine: FakeEngine, **settings: Any) -> AsyncIterator[str]:
    settings = {"api_keys": (KEY,), "allow_loopback_without_key": False, **settings}
    # Both read files.
    backends = {"fake": engine.url}
    given = await asyncio.to_thread(
        load_settings, GatewaySettings, backends=backends, discovery_interval_s=0.1, **settings
    )
    app = await asyncio.to_thread(create_app, given)
    async with running(app) as url:
        yield url


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(engine: FakeEngine) -> AsyncIterator[str]:
    async with gateway_before(engine) as url:
        yield url


@pytest.fixture
def open_page(browser: Browser) -> Open:
    """Return a context manager that opens the page in a fresh profile; complaints fail the test when it is left."""

    @asynccontextmanager
    async def opened(url: str, fragment: str = f"#key={KEY}", **context: Any) -> AsyncIterator[Visit]:
        profile = await browser.new_context(**{"viewport": DESKTOP, **context})
        try:
            page = await profile.new_page()
            visit = Visit(page, url)
            await page.goto(f"{url}/{fragment}")
            yield visit
            assert visit.complaints == []
        finally:
            await profile.close()

    return opened


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("SPARKSTACK_TEST_OUTPUT") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# --- status -----------------------------------------------------------------------------------------------------


async def test_shows_the_models_their_state_and_the_load(gateway: str, open_page: Open) -> None:
    async with open_page(gateway) as visit:
        page = visit.page
        await expect(visit.model_state).to_have_text("ready")
        await expect(page.locator("#models")).to_contain_text("fake-embed")
        await expect(page.locator("#link-state")).to_have_text("ready")
        await expect(page.locator("#backends")).to_contain_text("http://127.0.0.1")
        await expect(page.locator("#memory-split")).to_contain_text("GiB")
        await expect(page.locator("#identity")).to_contain_text("v0.1.0")


async def test_takes_the_key_out_of_the_address_and_keeps_it_for_the_tab(gateway: str, open_page: Open) -> None:
    async with open_page(gateway) as visit:
        await expect(visit.model_state).to_have_text("ready")
        assert visit.page.url == f"{gateway}/"
        await visit.page.reload()
        await expect(visit.model_state).to_have_text("ready")
        await expect(visit.page.get_by_label("API key")).to_be_hidden()


async def test_an_engine_that_stops_and_comes_back_shows_by_itself(
    gateway: str, engine: FakeEngine, open_page: Open
) -> None:
    async with open_page(gateway) as visit:
        await expect(visit.model_state).to_have_text("ready")
        await engine.stop()
        await expect(visit.model_state).to_have_text("unreachable")
        await engine.start()
        await expect(visit.model_state).to_have_text("ready")


async def test_a_gateway_out_of_reach_is_said_and_forgotten_when_it_is_back(gateway: str, open_page: Open) -> None:
    async with open_page(gateway) as visit:
        await expect(visit.model_state).to_have_text("ready")
        await visit.page.context.set_offline(True)
        await expect(visit.page.get_by_role("alert")).to_contain_text("The gateway is not reachable")
        await expect(visit.model_state).to_have_text("unknown")
        await visit.page.context.set_offline(False)
        await expect(visit.model_state).to_have_text("ready")
        await expect(visit.page.locator("#down")).to_be_hidden()


async def test_a_request_under_way_is_listed_live(gateway: str, engine: FakeEngine, open_page: Open) -> None:
    engine.script(path="/v1/chat/completions", tokens=4000)
    async with open_page(gateway) as visit:
        live = visit.page.locator("#live li")
        await visit.ask("Count.")
        await expect(live.locator(".state")).to_have_text("streaming")
        await expect(live.locator(".speed")).to_contain_text("tok/s")
        await expect(visit.page.locator("#in-flight")).to_have_text("1")
        await visit.page.get_by_role("button", name="Stop").click()
        await expect(live).to_have_count(0)


# --- models that are loaded on demand -----------------------------------------------------------------------------


@asynccontextmanager
async def loading(**fields: Any) -> AsyncIterator[tuple[str, FakeModel]]:
    """Run a gateway in front of an engines service with two models; `fields` are those of `small`."""
    async with fake_engines() as engines:
        model = await engines.add("small", **fields)
        await engines.add("absent", state="missing")
        given = {"api_keys": (KEY,), "engines_url": engines.url, "engines_key": engines.key, "backends": {}}
        settings = await asyncio.to_thread(load_settings, GatewaySettings, **given)
        async with running(create_app(settings)) as url:
            yield url, model


async def test_a_model_is_loaded_and_unloaded_by_its_button(open_page: Open, screenshots: Path) -> None:
    async with loading(load_s=2.0) as (url, _), open_page(url) as visit:
        row = visit.page.locator("#models li")
        await expect(row.locator(".state")).to_have_text("stopped")
        await expect(row).to_contain_text("needs 2.0 KiB")
        await expect(visit.page.locator("#not-pulled")).to_have_text("Not on this machine: absent")
        await row.get_by_role("button", name="Load small").click()
        await expect(row.locator(".state")).to_have_text("loading")
        await expect(row).to_contain_text("left")
        await visit.page.screenshot(path=screenshots / "page-loading.png")
        await expect(row.locator(".state")).to_have_text("ready")
        await expect(row).to_contain_text("holds 2.0 KiB · CPU")
        await row.get_by_role("button", name="Unload small").click()
        await expect(row.locator(".state")).to_have_text("stopped")


async def test_a_question_is_held_while_its_model_is_loaded(open_page: Open) -> None:
    async with loading(load_s=2.5) as (url, _), open_page(url) as visit:
        await expect(visit.page.locator("#models li .state")).to_have_text("stopped")
        await visit.ask("echo: at last")
        await expect(visit.page.locator("#live li .state")).to_have_text("held")
        await visit.ended()
        await expect(visit.answer).to_have_text("at last")


async def test_a_model_that_failed_says_why(open_page: Open) -> None:
    async with loading(failure="its engine ended with status 1: no such file") as (url, model), open_page(url) as visit:
        row = visit.page.locator("#models li")
        await row.get_by_role("button", name="Load small").click()
        await expect(row.locator(".state")).to_have_text("failed")
        await expect(row.locator("[data-part=failure]")).to_have_text(model.failure)


# --- the key ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fragment", "sentence"),
    [
        ("", "This gateway asks for its API key."),
        ("#key=sk-wrong", "The gateway refused the key it was given."),
    ],
    ids=["absent", "wrong"],
)
async def test_without_a_good_key_a_field_says_where_it_is(
    gateway: str, open_page: Open, fragment: str, sentence: str
) -> None:
    async with open_page(gateway, fragment) as visit:
        field = visit.page.get_by_label("API key")
        await expect(field).to_be_focused()
        await expect(visit.page.locator("#key-form")).to_contain_text(sentence)
        await expect(visit.page.locator("#key-form")).to_contain_text(".venv/bin/sparkstack key")
        await field.fill("sk-also-wrong")
        await field.press("Enter")
        await expect(visit.page.locator("#key-form")).to_contain_text("The gateway refused the key it was given.")
        await field.fill(f" {KEY} ")
        await field.press("Enter")
        await expect(visit.model_state).to_have_text("ready")
        await expect(field).to_be_hidden()
        await expect(visit.page.get_by_label("Message")).to_be_focused()


async def test_a_gateway_that_needs_no_key_shows_no_field(engine: FakeEngine, open_page: Open) -> None:
    async with (
        gateway_before(engine, api_keys=(), allow_loopback_without_key=True) as url,
        open_page(url, "") as visit,
    ):
        await expect(visit.model_state).to_have_text("ready")
        await expect(visit.page.get_by_label("API key")).to_be_hidden()
        await visit.page.get_by_text("Python, ollama").click()
        await expect(visit.page.locator("[data-snippet=ollama] code")).not_to_contain_text("Bearer")


async def test_snippets_hide_the_key_until_it_is_asked_for_and_copy_it_whole(gateway: str, open_page: Open) -> None:
    async with open_page(gateway, permissions=["clipboard-read", "clipboard-write"]) as visit:
        page = visit.page
        await page.get_by_text("curl", exact=True).click()
        snippet = page.locator("[data-snippet=curl]")
        await expect(snippet.locator("code")).to_contain_text(f"{gateway}/v1/chat/completions")
        await expect(page.locator("body")).not_to_contain_text(KEY)
        await snippet.get_by_role("button", name="Copy").click()
        await expect(snippet.get_by_role("button", name="Copied")).to_be_visible()
        assert f"Authorization: Bearer {KEY}" in await page.evaluate("navigator.clipboard.readText()")
        await page.get_by_role("button", name="Show").click()
        await expect(snippet.locator("code")).to_contain_text(KEY)
        await page.get_by_role("button", name="Forget").click()
        await expect(page.get_by_label("API key")).to_be_visible()
        await expect(page.locator("body")).not_to_contain_text(KEY)


# --- the chat ---------------------------------------------------------------------------------------------------


async def test_an_answer_grows_as_its_tokens_come(gateway: str, engine: FakeEngine, open_page: Open) -> None:
    # Cut within characters, lines and events: 3 bytes a write.
    engine.script(path="/v1/chat/completions", split=3, crlf=True, comment_every=2)
    async with open_page(gateway) as visit:
        await visit.page.evaluate(
            """() => {
                window.lengths = new Set();
                new MutationObserver(() => {
                    const answer = document.querySelector("[data-part=answer]");
                    if (answer?.textContent) lengths.add(answer.textContent.length);
                }).observe(document.body, {subtree: true, childList: true, characterData: true});
            }"""
        )
        words = "echo: " + " ".join(["Größe 日本語 🚀 naïve"] * 6)
        await visit.ask(words)
        await visit.ended()
        await expect(visit.answer).to_have_text(words.removeprefix("echo: "))
        lengths = await visit.page.evaluate("[...lengths]")
        assert len(lengths) > 5
        assert lengths == sorted(lengths)
        measures = visit.page.locator(".measures")
        await expect(measures).to_have_text(re.compile(r"s to first token · \d+\.\d tokens/s · \d+ tokens in, \d+ out"))


async def test_the_conversation_and_the_options_are_sent_along(
    gateway: str, engine: FakeEngine, open_page: Open
) -> None:
    async with open_page(gateway) as visit:
        page = visit.page
        await expect(page.get_by_label("Model", exact=True)).to_have_value("default")
        await page.get_by_text("Options").click()
        await page.get_by_label("System prompt").fill("Be brief.")
        await page.get_by_label("Temperature").fill("0.25")
        await page.get_by_label("Max tokens").fill("64")
        await visit.ask("echo: one")
        await visit.ended()
        await page.get_by_role("button", name="fake-chat").click()
        await visit.ask("echo: two")
        await visit.ended()
        body = engine.requests("/v1/chat/completions")[-1]["body"]
        assert body["messages"] == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "echo: one"},
            {"role": "assistant", "content": "one"},
            {"role": "user", "content": "echo: two"},
        ]
        assert (body["temperature"], body["max_tokens"], body["model"]) == (0.25, 64, "fake-chat")
        await page.get_by_role("button", name="Clear").click()
        await expect(page.locator(".turn")).to_have_count(0)


async def test_shift_enter_makes_a_new_line(gateway: str, engine: FakeEngine, open_page: Open) -> None:
    async with open_page(gateway) as visit:
        message = visit.page.get_by_label("Message")
        await message.fill("echo: first")
        await message.press("Shift+Enter")
        await message.press_sequentially("second")
        await message.press("Enter")
        await visit.ended()
        assert engine.requests()[-1]["body"]["messages"][-1]["content"] == "echo: first\nsecond"


async def test_stop_ends_the_answer_here_and_at_the_engine(gateway: str, engine: FakeEngine, open_page: Open) -> None:
    engine.script(path="/v1/chat/completions", tokens=4000)
    async with open_page(gateway) as visit:
        await visit.ask("Tell me everything.")
        await expect(visit.answer).to_have_text(re.compile(r"\w+ \w+ \w+"))
        await visit.page.get_by_role("button", name="Stop").click()
        await visit.ended()
        await eventually(lambda: engine.state().cancelled == 1)
        await expect(visit.page.locator(".measures")).to_contain_text("stopped")
        engine.clear_script()
        await visit.ask("echo: and on it goes")
        await expect(visit.answer).to_have_text("and on it goes")


async def test_an_error_in_the_stream_keeps_what_came_and_offers_another_try(
    gateway: str, engine: FakeEngine, open_page: Open
) -> None:
    engine.script(path="/v1/chat/completions", times=1, error_event=3)
    async with open_page(gateway) as visit:
        await visit.ask("echo: a b c d e f")
        await visit.ended()
        await expect(visit.page.locator(".failure")).to_contain_text(
            "scripted failure after 3 chunks", ignore_case=True
        )
        await expect(visit.answer).to_have_text("a b c")
        await visit.page.get_by_role("button", name="Try again").click()
        await expect(visit.answer).to_have_text("a b c d e f")
        await expect(visit.page.locator(".failure:visible")).to_have_count(0)


async def test_an_engine_that_dies_in_the_middle_is_told_from_one_that_finished(
    gateway: str, engine: FakeEngine, open_page: Open
) -> None:
    engine.script(path="/v1/chat/completions", die_after=3)
    async with open_page(gateway) as visit:
        await visit.ask("echo: a b c d e f")
        await visit.ended()
        await expect(visit.page.locator(".failure")).to_be_visible()
        await expect(visit.answer).to_have_text("a b c")


async def test_a_refused_request_shows_the_gateways_sentence(gateway: str, engine: FakeEngine, open_page: Open) -> None:
    engine.script(path="/v1/chat/completions", status=503, retry_after="7")
    async with open_page(gateway) as visit:
        await visit.ask("Hello?")
        await visit.ended()
        await expect(visit.page.locator(".failure")).to_have_text("Scripted failure (Try again in 7 s.)")


async def test_what_the_model_writes_is_text_and_fences_are_code(gateway: str, open_page: Open) -> None:
    said = (
        "Before <img src=x onerror=alert(1)>\n\n```html\n<script>alert(1)</script>\n\n"
        "  indented\n```\nbetween\n~~~\n```\n~~~\n````\nunclosed"
    )
    async with open_page(gateway) as visit:
        await visit.ask(f"echo: {said}")
        await visit.ended()
        code = visit.answer.locator("pre code")
        assert await code.all_text_contents() == ["<script>alert(1)</script>\n\n  indented", "```", "unclosed"]
        assert await visit.answer.locator("p").all_text_contents() == ["Before <img src=x onerror=alert(1)>", "between"]
        assert await visit.answer.locator("img, script").count() == 0


async def test_a_text_drawn_as_it_grows_looks_like_one_drawn_at_once(gateway: str, open_page: Open) -> None:
    text = (
        "Use **bold** and `a ** b`, not ** or `this\n\n```py\nx = 1\n```\n`\n\n**open\n"
        "``a ` b`` **x**`y`\n\n~~~\n**z**\n\n~~~"
    )
    async with open_page(gateway) as visit:
        unlike, whole = await visit.page.evaluate(
            """async (text) => {
                const { GrowingText } = await import("/page/text.js");
                const growing = document.createElement("div");
                const view = new GrowingText(growing);
                const unlike = [];
                for (let length = 1; length <= text.length; length++) {
                    view.draw(text.slice(0, length));
                    const once = document.createElement("div");
                    new GrowingText(once).draw(text.slice(0, length));
                    if (once.innerHTML !== growing.innerHTML) unlike.push(text.slice(0, length));
                }
                const found = (name) => [...growing.querySelectorAll(name)].map((one) => one.textContent);
                return [unlike, { strong: found("strong"), code: found("code") }];
            }""",
            text,
        )
        assert unlike == []
        assert whole == {"strong": ["bold", "x"], "code": ["a ** b", "x = 1", "a ` b", "y", "**z**\n"]}


async def test_reasoning_is_folded_away_from_the_answer(gateway: str, open_page: Open) -> None:
    async def with_reasoning(route: Route) -> None:
        body = {**(route.request.post_data_json or {}), "reasoning_effort": "low"}
        await route.continue_(post_data=json.dumps(body))

    async with open_page(gateway) as visit:
        await visit.page.route("**/v1/chat/completions", with_reasoning)
        await visit.ask("echo: the answer")
        await visit.ended()
        await expect(visit.answer).to_have_text("the answer")
        thoughts = visit.page.locator("[data-part=thoughts]")
        await expect(thoughts).to_be_hidden()
        await visit.page.get_by_text("Reasoning").click()
        await expect(thoughts).to_have_text(re.compile(r"\w+ \w+"))


async def test_events_are_read_whole_wherever_the_stream_is_cut(gateway: str, open_page: Open) -> None:
    stream = ': hello\r\ndata: {"a": "é🚀"}\r\n\r\ndata:x\rdata: y\r\revent: z\ndata\n\ndata: last'
    async with open_page(gateway) as visit:
        readings = await visit.page.evaluate(
            """async (text) => {
                const { readEvents } = await import("/page/api.js");
                const bytes = new TextEncoder().encode(text);
                const readings = [];
                for (let size = 1; size <= bytes.length; size++) {
                    const source = new ReadableStream({
                        start(controller) {
                            for (let at = 0; at < bytes.length; at += size)
                                controller.enqueue(bytes.slice(at, at + size));
                            controller.close();
                        },
                    });
                    const events = [];
                    for await (const data of readEvents(source)) events.push(data);
                    readings.push(events);
                }
                return readings;
            }""",
            stream,
        )
        assert len(readings) == len(stream.encode())
        for events in readings:
            assert events == ['{"a": "é🚀"}', "x\ny", "", "last"]


# --- answers from documents -----------------------------------------------------------------------------------------


@asynccontextmanager
async def documents(folder: Path) -> AsyncIterator[tuple[str, FakeRag]]:
    """Run a gateway in front of an engine and of the stack's own services."""
    async with fake_engine() as engine, fake_embeddings(key="sk-in") as embeddings, fake_rag(key="sk-in") as rag:
        catalogue = folder / "catalogue.json"
        catalogue.write_text(json.dumps({"backends": [embeddings.listed(), rag.listed()]}))
        async with gateway_before(engine, catalogue=catalogue, internal_key="sk-in") as url:
            yield url, rag


async def test_the_services_are_shown_with_what_they_are_for(open_page: Open, tmp_path: Path) -> None:
    async with documents(tmp_path) as (url, rag), open_page(url) as visit:
        backends = visit.page.locator("#backends li")
        await expect(backends.filter(has_text="embeddings, rerank").locator(".state")).to_have_text("ready")
        await expect(backends.filter(has_text="chat, rag").locator(".state")).to_have_text("ready")
        await expect(visit.page.locator("#models li", has_text="mini").first).to_contain_text("8 dimensions")
        await expect(visit.page.locator("optgroup[label='Answers from documents'] option")).to_have_text("rag/handbook")
        await expect(visit.page.locator("optgroup[label='Other models'] option")).to_have_text(["mini", "mini-rank"])
        rag.drop_collection("handbook")
        await expect(visit.page.locator("optgroup[label='Answers from documents']")).to_have_count(0)


async def test_an_answer_from_documents_shows_what_it_cites(open_page: Open, tmp_path: Path, screenshots: Path) -> None:
    async with documents(tmp_path) as (url, _), open_page(url) as visit:
        page = visit.page
        await page.get_by_role("button", name="rag/handbook").click()
        await visit.ask("Where is my key?")
        await visit.ended()
        await expect(visit.answer).to_have_text(ANSWER_WITH_SOURCES.replace("`", ""))
        sources = page.get_by_role("region", name="Sources").get_by_role("listitem")
        await expect(sources.locator("[data-part=number]")).to_have_text(["[1]", "[2]"])
        await expect(sources.locator("[data-part=document]")).to_have_text(["Keys", "Offline <b>"])
        await expect(sources.locator("[data-part=place]")).to_have_text(["keys.md", "offline.pdf · page 7"])
        await expect(sources.locator("blockquote")).to_have_text(
            ["`sparkstack key` prints it", "no outside connection"]
        )
        await expect(page.locator("#announcer")).to_contain_text("2 sources below.")
        await page.screenshot(path=screenshots / "page-sources.png")
        await page.get_by_role("button", name="fake-chat").click()
        await visit.ask("echo: none")
        await visit.ended()
        await expect(page.get_by_role("region", name="Sources")).to_have_count(1)


# --- looks ------------------------------------------------------------------------------------------------------


async def test_every_control_has_a_name_and_the_keyboard_reaches_the_chat(gateway: str, open_page: Open) -> None:
    async with open_page(gateway) as visit:
        page = visit.page
        await expect(visit.model_state).to_have_text("ready")
        nameless = await page.evaluate(
            """() => [...document.querySelectorAll("button, input, select, textarea, summary, a, [tabindex]")]
                .filter((one) => !(one.textContent.trim() || one.labels?.length || one.ariaLabel))
                .filter((one) => one.tagName !== "PRE")
                .map((one) => one.outerHTML)"""
        )
        assert nameless == []
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to the chat")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.get_by_label("Message")).to_be_focused()
        await visit.ask("echo: heard once")
        await expect(page.locator("#announcer")).to_have_text("Answer: heard once")


@pytest.mark.parametrize("width", [320, 360, 768, 1024, 2560])
async def test_no_width_scrolls_sideways(gateway: str, open_page: Open, width: int) -> None:
    async with open_page(gateway, viewport={"width": width, "height": 740}) as visit:
        page = visit.page
        await visit.ask("echo: " + "unbroken" * 40 + "\n```\n" + "wide " * 80 + "\n```")
        await visit.ended()
        await page.get_by_text("curl", exact=True).click()
        assert await page.evaluate("document.documentElement.scrollWidth") == width
        assert await page.evaluate("document.querySelector('#transcript').scrollWidth <= innerWidth")


async def test_light_and_dark_follow_the_system_and_pictures_are_taken(
    gateway: str, open_page: Open, screenshots: Path
) -> None:
    grounds = {}
    for name, scheme, viewport in (
        ("phone-light", "light", PHONE),
        ("desktop-dark", "dark", DESKTOP),
        ("desktop-light", "light", DESKTOP),
    ):
        async with open_page(gateway, viewport=viewport, color_scheme=scheme) as visit:
            await expect(visit.model_state).to_have_text("ready")
            await visit.ask(f"echo: {ANSWER}")
            await visit.ended()
            await expect(visit.page.locator("#live li")).to_have_count(0)
            grounds[name] = await visit.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
            path = screenshots / f"page-{name}.png"
            await visit.page.screenshot(path=path, full_page=viewport == PHONE)
            assert path.stat().st_size > 10_000
    assert grounds["phone-light"] == grounds["desktop-light"] != grounds["desktop-dark"]
