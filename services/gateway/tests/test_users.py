import base64
import hashlib
import hmac
import json
from typing import Any

import pytest

from services.gateway.errors import InvalidUserToken
from services.gateway.identity import INTERNAL_CLIENT, LOOPBACK_CLIENT, Keys
from services.gateway.settings import GatewaySettings
from services.gateway.users import Users
from services.kit.errors import InvalidApiKey
from services.kit.on_behalf import sign
from services.kit.settings import SettingsError, load_settings

SECRET = "0123456789abcdef0123456789abcdef"
NOW = 1_800_000_000
USERS = Users(SECRET)


def encoded(document: Any) -> str:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(secret: str = SECRET, alg: str = "HS256", **claims: Any) -> str:
    """A token as Open WebUI makes them; a claim of None is left out."""
    given = {
        "sub": "5f0c-77",
        "email": "ann@example.org",
        "name": "Ann",
        "role": "user",
        "iss": "open-webui",
        "iat": NOW,
        "exp": NOW + 300,
        **claims,
    }
    head = encoded({"alg": alg, "typ": "JWT"})
    body = encoded({name: value for name, value in given.items() if value is not None})
    signature = hmac.digest(secret.encode(), f"{head}.{body}".encode(), hashlib.sha256)
    return f"{head}.{body}.{encoded(signature)}"


def read(text: str, users: Users = USERS, now_s: float = NOW + 10) -> str:
    return users.read(text.encode(), now_s=now_s)


def test_a_user_is_known_by_id_or_by_address() -> None:
    assert read(token()) == "open-webui/5f0c-77"
    assert read(token(), Users(SECRET, "email")) == "open-webui/ann@example.org"


def test_a_token_of_the_library_that_open_webui_uses_is_read() -> None:
    """Made by PyJWT 2.13 with the same secret and claims: {"sub": "u-1", …}, good until 2033."""
    made = (
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9."
        "eyJzdWIiOiJ1LTEiLCJlbWFpbCI6ImFubkBleGFtcGxlLm9yZyIsIm5hbWUiOiJBbm4iLCJyb2xlIjoidXNlciIsIm"
        "lzcyI6Im9wZW4td2VidWkiLCJpYXQiOjE4MDAwMDAwMDAsImV4cCI6MjAwMDAwMDAwMH0."
        "A5oHWJqk9zsKTZz2LcV4vvRsoyiCYQBs7ulqxeMI4_o"
    )
    assert read(made) == "open-webui/u-1"


@pytest.mark.parametrize("now_s", [NOW - 60, NOW, NOW + 300, NOW + 360])
def test_clocks_may_be_a_minute_apart(now_s: float) -> None:
    assert read(token(), now_s=now_s) == "open-webui/5f0c-77"


@pytest.mark.parametrize(("now_s", "said"), [(NOW - 61, "61 s ahead"), (NOW + 361, "expired 61 s ago")])
def test_a_token_of_another_time_is_refused_with_the_difference(now_s: float, said: str) -> None:
    with pytest.raises(InvalidUserToken, match=said):
        read(token(), now_s=now_s)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (token(secret="another" * 8), "another secret: Open WebUI's FORWARD_USER_INFO_HEADER_JWT_SECRET"),
        (token(alg="none"), "HS256"),
        (token(alg="HS512"), "HS256"),
        (f"{encoded({'alg': 'none'})}.{token().split('.')[1]}.", "HS256"),
        (token().rpartition(".")[0] + ".", "another secret"),
        (token(iss="https://idp.example"), "from 'https://idp.example'"),
        (token(sub=""), "its id is empty"),
        (token(sub="a\nb"), "its id is empty or unreadable"),
        (token(sub=None), "can't be read"),
        (token(exp=None), "can't be read"),
        (token(exp="never"), "can't be read"),
        ("", "can't be read"),
        ("a.b", "can't be read"),
        ("a.b.c", "can't be read"),
        ("ä.ö.ü", "can't be read"),
        (f"{encoded(b'[')}.{encoded(b'{}')}.{encoded(b'')}", "can't be read"),
        (f"{token()}=", "another secret|can't be read"),
        (token(name="n" * 5000), "HS256"),
    ],
)
def test_what_open_webui_would_not_send_is_refused(text: str, said: str) -> None:
    with pytest.raises(InvalidUserToken, match=said):
        read(text)


def test_each_changed_character_of_a_token_makes_it_another() -> None:
    good = token()
    for place in range(len(good)):
        other = "A" if good[place] != "A" else "E"
        with pytest.raises(InvalidUserToken):
            read(good[:place] + other + good[place + 1 :])


# --- beside keys ------------------------------------------------------------------------------------------------


def scope(**headers: str) -> dict[str, Any]:
    headers.setdefault("host", "127.0.0.1:8000")
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"client": ("127.0.0.1", 5), "headers": pairs}


def named(**headers: str) -> dict[str, Any]:
    return scope(x_openwebui_user_jwt=token(iat=0, exp=4e9), **headers)


KEYS = Keys(("ui=k1",), allow_loopback=True, internal="sk-internal", users=USERS)


def test_whoever_has_a_key_may_say_which_of_its_people_calls() -> None:
    assert KEYS.identify(named(authorization="Bearer k1")) == "open-webui/5f0c-77"
    assert KEYS.identify(named()) == "open-webui/5f0c-77"
    assert KEYS.identify(scope(authorization="Bearer k1")) == "ui"
    assert KEYS.identify(scope(x_openwebui_user_jwt="")) == LOOPBACK_CLIENT


def test_a_signed_name_is_no_key() -> None:
    with pytest.raises(InvalidApiKey):
        KEYS.identify(named(authorization="Bearer wrong"))
    with pytest.raises(InvalidApiKey):
        Keys(("k1",), allow_loopback=False, users=USERS).identify(named())


def test_a_bad_name_is_refused_not_left_out() -> None:
    with pytest.raises(InvalidUserToken):
        KEYS.identify(scope(authorization="Bearer k1", x_openwebui_user_jwt=token(secret="x" * 40, exp=4e9)))


def test_without_a_shared_secret_names_are_not_read() -> None:
    keys = Keys(("ui=k1",), allow_loopback=False)
    assert keys.identify(named(authorization="Bearer k1")) == "ui"


@pytest.mark.parametrize("plain", ["x_openwebui_user_id", "x_openwebui_user_email", "x_openwebui_user_name"])
def test_names_that_nobody_signed_are_never_believed(plain: str) -> None:
    assert KEYS.identify(scope(authorization="Bearer k1", **{plain: "ann@example.org"})) == "ui"


def test_a_service_of_the_stack_is_named_by_its_own_signature_alone() -> None:
    inner = {"authorization": "Bearer sk-internal"}
    assert KEYS.identify(named(**inner)) == INTERNAL_CLIENT
    behalf = sign("open-webui/other", "sk-internal")
    assert KEYS.identify(named(**inner, x_sparkstack_on_behalf_of=behalf)) == "open-webui/other"


# --- settings ---------------------------------------------------------------------------------------------------


def test_a_secret_that_could_be_guessed_is_refused_and_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_OPENWEBUI_SECRET", "hunter2")
    with pytest.raises(SettingsError, match=r"GATEWAY_OPENWEBUI_SECRET has 7 characters.*openssl rand") as caught:
        load_settings(GatewaySettings)
    assert "hunter2" not in str(caught.value)
    monkeypatch.setenv("GATEWAY_OPENWEBUI_SECRET", SECRET)
    assert load_settings(GatewaySettings).openwebui_secret == SECRET


def test_users_are_called_by_id_or_email_alone() -> None:
    with pytest.raises(SettingsError, match="GATEWAY_OPENWEBUI_USERS=name"):
        load_settings(GatewaySettings, openwebui_users="name")
