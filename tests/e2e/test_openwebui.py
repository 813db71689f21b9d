"""The real Open WebUI in front of the whole stack, in a real browser: what its people see, and who the gateway sees.

Screenshots are left in `$SPARKSTACK_TEST_OUTPUT`, or in pytest's temporary folder.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, Page, async_playwright, expect
from playwright.async_api import Error as PageError

from services.cli.home import Home
from services.cli.processes import end_units
from tests.e2e.stacks import REPOSITORY, Stack, wait_for
from tests.e2e.test_page import ARGUMENTS, CHROMIUM
from tests.testkit.ports import free_port

pytestmark = [pytest.mark.openwebui, pytest.mark.timeout(900), pytest.mark.asyncio(loop_scope="module")]

PROGRAM = REPOSITORY / ".venvs" / "open-webui" / "bin" / "open-webui"
SMALL = "smollm2-135m-instruct-q4_1"
STARTS_IN_S = 300
"""It imports for twenty seconds; beside other work that takes longer."""
DOCUMENTS = {
    "lighthouse.md": (
        "# The lighthouse of Norderhook\n\n"
        "The lighthouse of Norderhook was built in 1887. Its lamp is lit every evening by the keeper, Marten Brook.\n\n"
        "## The ferry\n\nThe ferry to Norderhook leaves the harbour at seven in the morning and returns at five.\n"
    ),
    "bakery.md": "# The bakery\n\nThe bakery sells rye bread on Mondays. The oven is heated with beech wood.\n",
}
UPPER = {"x": 0, "y": 0, "width": 1280, "height": 312}
"""What a picture of a short answer needs of the page."""
ANN = {"name": "Ann", "email": "ann@example.org", "password": "correct horse battery staple"}
BOB = {"name": "Bob", "email": "bob@example.org", "password": "another good password"}


# --- what runs ----------------------------------------------------------------------------------------------------


@dataclass
class WebUi:
    """Open WebUI in front of a stack."""

    stack: Stack
    url: str

    def requests(self, route: str) -> list[dict[str, Any]]:
        """The requests of people that the gateway has answered, as its log tells of them."""
        lines = self.stack.home.log("gateway").read_text().splitlines()
        entries = [json.loads(line) for line in lines if line.startswith("{")]
        return [
            each
            for each in entries
            if each.get("route") == route and str(each.get("client", "")).startswith("open-webui/")
        ]

    def call(self, method: str, path: str, token: str = "", **fields: Any) -> dict[str, Any]:
        """Ask Open WebUI itself, as its pages do."""
        headers = {"authorization": f"Bearer {token}"} if token else {}
        response = httpx.request(method, self.url + path, headers=headers, timeout=60, trust_env=False, **fields)
        assert response.status_code == 200, response.text
        document: dict[str, Any] = response.json()
        return document


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    root = tmp_path_factory.mktemp("openwebui")
    stack = Stack(Home(REPOSITORY, root, (root / ".state").resolve()), {"MODE": "embedded"})
    documents = root / "documents"
    documents.mkdir()
    for name, text in DOCUMENTS.items():
        (documents / name).write_text(text)
    try:
        stack.up()
        stack.run("rag", "ingest", str(documents), "--collection", "island")
        yield stack
    finally:
        with suppress(AssertionError, subprocess.TimeoutExpired):
            stack.run("down")
        end_units(stack.units(), grace_s=5)


@pytest.fixture(scope="module")
def webui(stack: Stack) -> Iterator[WebUi]:
    if not PROGRAM.is_file():
        pytest.skip("optional: Open WebUI is not installed, so it is NOT tested; `make test-openwebui` installs it")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    # Into a file: it writes a line a request, and waits where nobody reads them.
    log = stack.home.log("open-webui")
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.cli.main", "open-webui", "--port", str(port)],
            cwd=REPOSITORY,
            env=stack.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def healthy() -> bool:
        assert process.poll() is None, f"it ended with {process.returncode}: {log.read_text()[-3000:]}"
        with suppress(httpx.TransportError):
            return httpx.get(f"{url}/health", trust_env=False).status_code == 200
        return False

    try:
        wait_for(healthy, "Open WebUI", timeout_s=STARTS_IN_S)
        yield WebUi(stack, url)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        process.kill()
        process.wait()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium, so Open WebUI is NOT tested; install `chromium`, or set CHROMIUM=PATH")
    expect.set_options(timeout=60_000)  # for a machine with other things to do
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def session(webui: WebUi, browser: Browser) -> dict[str, Any]:
    """What Ann's browser keeps after she has signed up, as the first: its administrator."""
    async with opened(browser, webui, None) as visit:
        page = visit.page
        await page.get_by_label("Name").fill(ANN["name"])
        await page.get_by_label("Email").fill(ANN["email"])
        await page.get_by_label("Password", exact=True).fill(ANN["password"])
        await page.get_by_role("button", name="Create Admin Account").click()
        # News of the version are shown once; that they were seen is kept in the account.
        async with page.expect_response(re.compile("/users/user/settings/update"), timeout=90_000):
            await page.get_by_role("button", name="Okay, Let's Go!").click(timeout=90_000)
        state: Any = await page.context.storage_state()
        return dict(state)


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("SPARKSTACK_TEST_OUTPUT") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Visit:
    """A page that is open, and what it asked of others than Open WebUI."""

    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        self.elsewhere: list[str] = []
        allowed = (f"{origin}/", origin.replace("http:", "ws:"), "data:", "blob:")
        page.on("request", lambda r: None if r.url.startswith(allowed) else self.elsewhere.append(r.url))

    async def pick(self, model: str) -> None:
        await self.page.locator("#model-selector-model-button").click()
        await self.page.get_by_role("option", name=f"Select {model} model", exact=True).click()

    async def ask(self, question: str) -> None:
        await self.page.locator("#chat-input").fill(question)
        await self.page.locator("#send-message-button").click()

    @property
    def answer(self) -> Locator:
        return self.page.locator(".chat-assistant").last


async def _enter(page: Page, url: str) -> None:
    """Open its first page: sign-up, or an empty chat. A network that changes meanwhile makes browsers give up once."""
    await page.goto(url)
    await page.get_by_role("button", name="Get started").or_(page.locator("#chat-input")).wait_for(timeout=30_000)
    if not await page.locator("#chat-input").count():
        await page.get_by_role("button", name="Get started").click()


@asynccontextmanager
async def opened(browser: Browser, webui: WebUi, session: Any) -> AsyncIterator[Visit]:
    size = {"width": 1280, "height": 800}
    context = await browser.new_context(viewport=size, storage_state=session, locale="en-US")  # type: ignore[arg-type]
    try:
        page = await context.new_page()
        visit = Visit(page, webui.url)
        for tries_left in (4, 3, 2, 1, 0):
            try:
                await _enter(page, webui.url)
                break
            except PageError:
                if not tries_left:
                    raise
        yield visit
        assert visit.elsewhere == [], "nothing leaves this machine"
    finally:
        await context.close()


async def eventually(found: Any, what: str) -> Any:
    return await asyncio.to_thread(wait_for, found, what)


# --- what people see ----------------------------------------------------------------------------------------------


async def test_the_picker_offers_what_chats_by_both_apis_and_shows_what_is_loaded(
    webui: WebUi, browser: Browser, session: Any, screenshots: Path
) -> None:
    async with opened(browser, webui, session) as visit:
        page = visit.page
        await page.locator("#model-selector-model-button").click()
        options = page.get_by_role("option")
        await expect(options.first).to_be_visible()
        names = [str(await option.get_attribute("aria-label")) for option in await options.all()]
        models = {name.removeprefix("Select ").removesuffix(" model") for name in names}
        assert models == {SMALL, "rag/island", f"ollama.{SMALL}", "ollama.rag/island"}
        loaded = options.filter(has_text=f"ollama.{SMALL}")
        await expect(loaded.get_by_label("Eject model")).to_have_count(1)
        await expect(options.get_by_label("Eject model")).to_have_count(1)
        await page.screenshot(path=screenshots / "openwebui-models.png")


async def test_an_answer_grows_as_it_comes_and_gets_a_title_by_the_small_model(
    webui: WebUi, browser: Browser, session: Any
) -> None:
    async with opened(browser, webui, session) as visit:
        await visit.pick(SMALL)
        await visit.page.evaluate(
            """() => {
                window.lengths = new Set();
                new MutationObserver(() => {
                    const answers = document.querySelectorAll(".chat-assistant");
                    if (answers.length) lengths.add([...answers].at(-1).textContent.trim().length);
                }).observe(document.body, {subtree: true, childList: true, characterData: true});
            }"""
        )
        await visit.ask("Describe the sea in two sentences.")
        await expect(visit.answer).to_have_text(re.compile(r"(\w+\W+){8,}", re.S), timeout=150_000)
        assert len(await visit.page.evaluate("[...lengths]")) > 4

    def titles() -> list[dict[str, Any]]:
        return [each for each in webui.requests("/v1/chat/completions") if "yielded_ms" in each]

    asked = await eventually(titles, "a request for a title")
    assert {each["model"] for each in asked} == {SMALL}
    people = {each["client"] for each in webui.requests("/v1/chat/completions")}
    assert len(people) == 1, "all of it is Ann's"


async def test_ollamas_api_answers_too(webui: WebUi, browser: Browser, session: Any) -> None:
    async with opened(browser, webui, session) as visit:
        await visit.pick(f"ollama.{SMALL}")
        await visit.ask("Name the capital of France.")
        await expect(visit.answer).to_contain_text("Paris")
    assert await eventually(lambda: webui.requests("/api/chat"), "a request by Ollama's API")


async def test_documents_answer_with_the_places_that_they_answer_from(
    webui: WebUi, browser: Browser, session: Any, screenshots: Path
) -> None:
    async with opened(browser, webui, session) as visit:
        page = visit.page
        await visit.pick("rag/island")
        await visit.ask("When was the lighthouse of Norderhook built?")
        mark = visit.answer.get_by_role("button", name="View source: The lighthouse of Norderhook")
        await expect(mark.first).to_be_visible()
        sources = visit.answer.get_by_role("button", name=re.compile(r"Toggle \d+ source"))
        await expect(sources).to_be_visible()
        await sources.click()
        await page.screenshot(path=screenshots / "openwebui-rag.png", clip=UPPER)
        await mark.first.click()
        dialog = page.get_by_role("dialog")
        await expect(dialog).to_contain_text("The lighthouse of Norderhook was built in 1887.")
        await page.screenshot(path=screenshots / "openwebui-citation.png")


async def test_what_is_not_in_the_documents_is_said_without_sources(
    webui: WebUi, browser: Browser, session: Any
) -> None:
    async with opened(browser, webui, session) as visit:
        await visit.pick("rag/island")
        await visit.ask("Who won the football world cup in 1966?")
        await expect(visit.answer).to_contain_text("The documents do not contain an answer to this question.")
        await expect(visit.answer.get_by_role("button", name=re.compile("source"))).to_have_count(0)


async def test_a_file_that_is_attached_is_found_by_the_stacks_vectors(
    webui: WebUi, browser: Browser, session: Any, tmp_path: Path
) -> None:
    file = tmp_path / "garden.md"
    file.write_text("# The garden\n\nThe gardener is called Olva Stern. She grows blue tulips behind the chapel.\n")
    async with opened(browser, webui, session) as visit:
        await visit.pick(SMALL)
        await visit.page.locator("input[type=file]:not(#camera-input)").first.set_input_files(file)
        embedded = await eventually(lambda: webui.requests("/v1/embeddings"), "vectors of the file")
        assert {each["status"] for each in embedded} == {200}
        await visit.ask("What does the gardener grow?")
        sources = visit.answer.get_by_role("button", name=re.compile(r"Toggle \d+ source"))
        await sources.click()
        await expect(visit.answer).to_contain_text("garden.md")


# --- who the gateway sees -----------------------------------------------------------------------------------------


async def test_each_person_is_known_to_the_gateway_by_a_name_of_their_own(webui: WebUi, session: Any) -> None:
    def call(*arguments: Any, **fields: Any) -> Any:
        return asyncio.to_thread(webui.call, *arguments, **fields)

    ann = await call("POST", "/api/v1/auths/signin", json={key: ANN[key] for key in ("email", "password")})
    assert ann["role"] == "admin"
    bob = await call("POST", "/api/v1/auths/add", ann["token"], json={**BOB, "role": "user"})
    listed = await call("GET", "/api/models", bob["token"])
    assert {SMALL, "rag/island"} <= {each["id"] for each in listed["data"]}, "models are there for everybody"
    for person in (ann, bob):
        body = {"model": SMALL, "messages": [{"role": "user", "content": "Say hello."}], "stream": False}
        answer = await call("POST", "/api/chat/completions", person["token"], json=body)
        assert answer["choices"][0]["message"]["content"]

    def known() -> bool:
        seen = {each["client"] for each in webui.requests("/v1/chat/completions")}
        return {f"open-webui/{ann['id']}", f"open-webui/{bob['id']}"} <= seen

    assert await eventually(known, "both names in the gateway's log")
    log = webui.stack.home.log("gateway").read_text()
    assert ANN["email"] not in log
    assert BOB["email"] not in log


async def test_what_is_kept_is_in_the_state_folder_alone(webui: WebUi) -> None:
    assert (webui.stack.home.state / "open-webui" / "webui.db").is_file()
    package = next((PROGRAM.parents[1] / "lib").glob("python3.*/site-packages/open_webui"))
    assert not list(package.glob("data/*.db")), "nothing is written beside its code"
