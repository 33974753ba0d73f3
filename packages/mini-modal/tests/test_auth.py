"""`mini auth modal` from end to end, one test or more for each line of its table, against the emulator's token flow."""

from __future__ import annotations

import os
import re
import stat
import sys
import time
import tomllib
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mini_modal._tls as tls
import pytest
from fronts import Fronts
from modal_emulator import Emulator
from modal_emulator.tls import Authority
from programs import Terminal, mini, mini_here
from test_tls import bad_certificates

pytestmark = pytest.mark.slow

SECRET = "as-VerySecretIndeed"
PASSWORD = "pa55word%21"

# It says yes where a person would. It waits, as browsers may, and has a window as far as Python knows.
BROWSER = f"""#!{sys.executable}
import re, sys, urllib.parse, urllib.request
page = urllib.request.urlopen(sys.argv[1]).read().decode()
code = re.search('name="code" value="([^"]*)"', page)[1]
urllib.request.urlopen(sys.argv[1], urllib.parse.urlencode({{"code": code}}).encode()).read()
"""


def approve(url: str, code: str) -> None:
    """Do what a person does on another machine."""
    form = urllib.parse.urlencode({"code": code}).encode()
    urllib.request.urlopen(url, form, timeout=30).close()


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    tls._restore()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Where Modal's file is; it is in a folder that is not there yet."""
    return tmp_path / "home" / "modal.toml"


@pytest.fixture
def env(emulator: Emulator, config: Path, tmp_path: Path) -> dict[str, str]:
    """An environment that has the server, no token and no browser. Nothing secret may come out in it."""
    tools = tmp_path / "bin"
    tools.mkdir()
    return {
        "MODAL_SERVER_URL": emulator.url,
        "MODAL_CONFIG_PATH": str(config),
        "PATH": str(tools),
        "HOME": str(tmp_path),
    }


@pytest.fixture
def browser(env: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "bin" / "a-browser"
    path.write_text(BROWSER)
    path.chmod(0o755)
    env["BROWSER"] = str(path)


def given(token: tuple[str, str]) -> dict[str, str]:
    return dict(zip(("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET"), token, strict=True))


def write(config: Path, profiles: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Write Modal's file, as an older program may have: everybody can read it."""
    config.parent.mkdir(exist_ok=True)
    lines = []
    for name, values in profiles.items():
        lines += [f"[{name}]", *(f"{key} = {str(value).lower() if value is True else repr(value)}" for key, value in values.items())]  # fmt: skip # noqa: E501
    config.write_text("\n".join(lines))
    config.chmod(0o644)
    return config.read_bytes()


def stored(config: Path) -> dict[str, Any]:
    with config.open("rb") as file:
        return tomllib.load(file)


def of(token: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {"token_id": token[0], "token_secret": token[1], **more}


# --- there is a token that works ------------------------------------------------------------------------------------


def test_a_token_of_the_environment(env: dict[str, str], emulator: Emulator, config: Path) -> None:
    done = mini("auth", "modal", env={**env, **given(emulator.token)})
    assert done.returncode == 0, done.stderr
    assert "workspace emulator" in done.stdout
    assert "MODAL_TOKEN_ID and MODAL_TOKEN_SECRET" in done.stdout
    assert emulator.token[1] not in done.stdout + done.stderr
    assert not config.parent.exists()


def test_a_token_of_a_profile(env: dict[str, str], emulator: Emulator, config: Path) -> None:
    """On a terminal too it changes nothing, and asks nothing."""
    before = write(
        config, {"one": of(("ak-1", SECRET)), "two": of(emulator.token, server_url=emulator.url, active=True)}
    )
    del env["MODAL_SERVER_URL"]
    with Terminal(["auth", "modal"], env) as terminal:
        assert terminal.finish() == 0
    assert "workspace emulator" in terminal.shown
    assert f"profile two in {config}" in terminal.shown
    assert config.read_bytes() == before
    assert stat.S_IMODE(config.stat().st_mode) == 0o644


# --- there is none, and somebody to ask -----------------------------------------------------------------------------


def test_on_a_terminal_a_browser_is_opened(
    browser: None, env: dict[str, str], emulator: Emulator, config: Path
) -> None:
    with Terminal(["auth", "modal"], env, umask=0o022) as terminal:
        assert terminal.finish() == 0, terminal.shown
    assert "workspace emulator" in terminal.shown
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    profile = stored(config)["emulator"]
    assert profile["active"] is True
    assert profile["server_url"] == emulator.url
    assert profile["token_secret"] not in terminal.shown
    # It is a token that works, for Modal's own commands as well.
    env["PATH"] = os.environ["PATH"]
    again = mini("modal", "token", "info", env=env)
    assert again.returncode == 0, again.stderr
    assert profile["token_id"] in again.stdout


def test_without_a_browser_page_and_code_are_shown(env: dict[str, str], config: Path) -> None:
    env |= {"SSH_CONNECTION": "192.0.2.1 50000 192.0.2.2 22", "MODAL_PROFILE": "mine"}
    with Terminal(["auth", "modal"], env) as terminal:
        terminal.until("Ctrl-C ends it")
        assert "No browser can be opened" in terminal.shown
        (url,) = re.findall(r"^  (http\S+)$", terminal.shown, re.MULTILINE)
        (code,) = re.findall(r"this one: (\w+)$", terminal.shown, re.MULTILINE)
        approve(url, code)
        assert terminal.finish() == 0, terminal.shown
    assert list(stored(config)) == ["mine"]


def test_nobody_approves(env: dict[str, str], config: Path) -> None:
    """The file that was made to hold the token is gone again."""
    with Terminal(["auth", "modal", "--timeout", "0.5"], env) as terminal:
        assert terminal.finish() == 124
    assert "nobody has approved" in terminal.shown
    assert not config.exists()


def test_a_login_that_is_broken_off_leaves_the_file(env: dict[str, str], config: Path) -> None:
    before = write(config, {"old": {"environment": "main", "active": True}})
    with Terminal(["auth", "modal"], env) as terminal:
        terminal.until("Ctrl-C ends it")
        terminal._process.send_signal(2)
        assert terminal.finish() == 1
    assert "Traceback" not in terminal.shown
    assert config.read_bytes() == before


def test_a_place_that_cannot_be_written_to_is_named_before_the_login(
    env: dict[str, str], config: Path, tmp_path: Path
) -> None:
    config.parent.write_text("not a folder")
    with Terminal(["auth", "modal"], env) as terminal:
        assert terminal.finish() == 8
    assert f"{config}" in terminal.shown
    assert "http://" not in terminal.shown


# --- there is none, and nobody to ask -------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["no terminal", "CI", "--no-input", "--check"])
def test_nobody_is_asked(how: str, env: dict[str, str], config: Path) -> None:
    started = time.monotonic()
    if how == "no terminal":
        done = mini("auth", "modal", env=env)
        code, said = done.returncode, done.stderr
        assert done.stdout == ""
    else:
        option = [how] if how.startswith("--") else []
        with Terminal(["auth", "modal", *option], env | ({"CI": "true"} if how == "CI" else {})) as terminal:
            code, said = terminal.finish(), terminal.shown
    assert code == 3
    assert "MODAL_TOKEN_ID" in said
    assert "MODAL_TOKEN_SECRET" in said
    assert not config.parent.exists()
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"MODAL_TOKEN_ID": "ak-1"}, "MODAL_TOKEN_SECRET is not set"),
        ({"MODAL_TOKEN_SECRET": SECRET}, "MODAL_TOKEN_ID is not set"),
        ({"MODAL_TOKEN_ID": "ak-1", "MODAL_TOKEN_SECRET": ""}, "MODAL_TOKEN_SECRET is empty"),
        (
            {"MODAL_TOKEN_ID": "", "MODAL_TOKEN_SECRET": ""},
            "MODAL_TOKEN_ID is empty and MODAL_TOKEN_SECRET is empty",
        ),
    ],
)
def test_half_a_pair(
    values: dict[str, str], named: str, env: dict[str, str], emulator: Emulator, config: Path
) -> None:
    """Modal would mix it with what the file has."""
    write(config, {"default": of(emulator.token)})
    done = mini_here("auth", "modal", env=env | values)
    assert done.returncode == 3
    assert named in done.stderr
    assert SECRET not in done.stderr


# --- Modal says no --------------------------------------------------------------------------------------------------


def test_a_rejected_token_of_the_environment(env: dict[str, str]) -> None:
    """A login would not help: the environment wins over the file."""
    with Terminal(["auth", "modal"], env | given(("ak-1", SECRET))) as terminal:
        assert terminal.finish() == 4
    said = " ".join(terminal.shown.split())
    assert "rejects the token of MODAL_TOKEN_ID and MODAL_TOKEN_SECRET" in said
    assert "the token is missing or unknown here" in said  # the server's words
    assert SECRET not in said


def test_a_rejected_token_of_a_profile_is_kept(env: dict[str, str], config: Path) -> None:
    before = write(config, {"mine": of(("ak-1", SECRET), active=True)})
    done = mini("auth", "modal", env=env)
    assert done.returncode == 4
    assert f"profile mine in {config}" in done.stderr
    assert "the token is missing or unknown here" in done.stderr
    assert SECRET not in done.stderr
    with Terminal(["auth", "modal"], env) as terminal:
        terminal.until("Log in again?")
        terminal.type("n\n")
        assert terminal.finish() == 4
    assert config.read_bytes() == before


def test_a_rejected_token_can_be_replaced(browser: None, env: dict[str, str], config: Path) -> None:
    write(config, {"emulator": of(("ak-1", SECRET), active=True), "other": {"environment": "dev"}})
    with Terminal(["auth", "modal"], env, umask=0o022) as terminal:
        terminal.until("Log in again?")
        terminal.type("\n")
        assert terminal.finish() == 0, terminal.shown
    profiles = stored(config)
    assert profiles["emulator"]["token_secret"] not in (SECRET, "")
    assert profiles["other"] == {"environment": "dev"}
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert SECRET not in terminal.shown


# --- Modal is not reached -------------------------------------------------------------------------------------------


def check(env: Mapping[str, str], *secrets: str) -> tuple[int, str]:
    """What `--check` says with a token that nobody is asked about."""
    started = time.monotonic()
    done = mini_here("auth", "modal", "--check", env={**env, **given(("ak-1", SECRET))})
    assert time.monotonic() - started < 30  # the machine may be busy; test_connect.py holds it to ten
    for secret in (SECRET, *secrets):
        assert secret not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    # That verification could be turned off is nobody's advice.
    assert not re.search(r"insecure|verify *= *false|disable|turn .*off|skip", done.stderr, re.IGNORECASE)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("url", "host"),
    [("https://no-such-host.invalid", "no-such-host.invalid"), ("https://127.0.0.1:1", "127.0.0.1")],
)
def test_no_connection(url: str, host: str, env: dict[str, str]) -> None:
    status, said = check({**env, "MODAL_SERVER_URL": url})
    assert status == 5
    assert host in said
    assert "api.modal.com, api.modal2.com" in said


def test_no_answer(env: dict[str, str], fronts: Fronts) -> None:
    status, said = check({**env, "MODAL_SERVER_URL": fronts.silent()})
    assert status == 5
    assert "does not answer in time" in said


@pytest.mark.parametrize(
    ("sort", "word", "issuer"),
    [
        ("other CA", "not trusted", "stranger CA of modal-emulator"),
        ("self-signed", "not trusted", "modal-emulator"),
        ("expired", "has expired", "inspector CA of modal-emulator"),
        ("wrong host", "for another host", "inspector CA of modal-emulator"),
    ],
)
def test_a_certificate_that_is_no_good(
    sort: str, word: str, issuer: str, env: dict[str, str], fronts: Fronts, emulator: Emulator, authority: Authority,
    ca: Path,
) -> None:  # fmt: skip
    url = fronts.open(bad_certificates()[sort](authority), emulator.url)
    status, said = check({**env, "MODAL_SERVER_URL": url, "SSL_CERT_FILE": str(ca)})
    assert status == 6
    assert word in said
    assert f"signed by {issuer}" in said
    assert "install that CA" in said
    assert "set SSL_CERT_FILE" in said


def test_a_certificate_that_a_variable_vouches_for(
    env: dict[str, str], emulator: Emulator, tls_url: str, ca: Path
) -> None:
    env |= {"MODAL_SERVER_URL": tls_url, "REQUESTS_CA_BUNDLE": str(ca), **given(emulator.token)}
    done = mini_here("auth", "modal", env=env)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("proxy", "word"),
    [
        (f"user:{PASSWORD}@127.0.0.1:1", "the proxy 127.0.0.1:1 (from HTTPS_PROXY) has no scheme"),
        (f"https://user:{PASSWORD}@127.0.0.1:1", "is spoken to by TLS"),
        (f"http://user:{PASSWORD}@127.0.0.1", "has no port"),
        (f"http://user:{PASSWORD}@127.0.0.1:1", "cannot be reached"),
    ],
)
def test_a_proxy_that_cannot_be_used(proxy: str, word: str, env: dict[str, str]) -> None:
    env |= {"MODAL_SERVER_URL": "https://api.modal.example", "HTTPS_PROXY": proxy}
    status, said = check(env, PASSWORD, "pa55word!")
    assert status == 7
    assert word in said


@pytest.mark.parametrize("user", ["", f"user:{PASSWORD}@"])
def test_a_proxy_that_wants_to_know_who_one_is(user: str, env: dict[str, str], fronts: Fronts) -> None:
    proxy = fronts.http(None, b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
    env |= {
        "MODAL_SERVER_URL": "https://api.modal.example",
        "HTTPS_PROXY": proxy.replace("//", f"//{user}"),
    }
    status, said = check(env, PASSWORD, "pa55word!")
    assert status == 7
    assert "407" in said
    assert ("does not accept the user name and password" if user else "USER:PASSWORD@127.0.0.1") in said


def test_a_proxy_that_refuses(env: dict[str, str], fronts: Fronts) -> None:
    proxy = fronts.http(None, b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    status, said = check({**env, "MODAL_SERVER_URL": "https://api.modal.example", "ALL_PROXY": proxy})
    assert status == 7
    assert "does not let this machine connect to api.modal.example" in said
    assert "api.modal.com, api.modal2.com" in said


def test_what_is_needed_for_a_proxy_is_not_installed(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "python_socks.async_.asyncio", None)
    env |= {
        "MODAL_SERVER_URL": "https://api.modal.example",
        "HTTPS_PROXY": f"http://user:{PASSWORD}@127.0.0.1:1",
    }
    status, said = check(env, PASSWORD, "pa55word!")
    assert status == 7
    assert "modal[api-proxy-support]" in said


def test_an_inspector_without_http_2(
    env: dict[str, str], fronts: Fronts, authority: Authority, ca: Path
) -> None:
    url = fronts.http(authority.issue(), b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    status, said = check({**env, "MODAL_SERVER_URL": url, "SSL_CERT_FILE": str(ca)})
    assert status == 7
    assert "does not speak HTTP/2" in said
    assert "inspector CA of modal-emulator" in said


# --- Modal's file is broken -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (f'[default]\ntoken_id = "ak-1\ntoken_secret = "{SECRET}"\n', "at line 2"),
        (f'token_secret = "{SECRET}"\n', "is in no profile"),
        (
            f'[a]\nactive = true\ntoken_secret = "{SECRET}"\n[b]\nactive = true\n',
            "2 profiles are active (a, b)",
        ),
        (f'[a]\ntoken_secret = "{SECRET}"\n[b]\n', "no profile is active of a, b"),
        (None, "cannot be read"),
    ],
)
def test_a_broken_file(text: str | None, word: str, env: dict[str, str], config: Path) -> None:
    if text is None:
        config.mkdir(parents=True)
    else:
        config.parent.mkdir()
        config.write_text(text)
    done = mini_here("auth", "modal", env=env)
    assert done.returncode == 8
    assert str(config) in done.stderr
    assert word in done.stderr
    assert SECRET not in done.stderr
    assert done.stderr.count("\n") == 1


# --- a token from elsewhere -----------------------------------------------------------------------------------------


def test_a_token_on_standard_input_is_verified_and_stored(
    env: dict[str, str], emulator: Emulator, config: Path
) -> None:
    done = mini("auth", "modal", "--stdin", env=env, stdin="\n".join(emulator.token), umask=0o022)
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert stored(config) == {"emulator": of(emulator.token, server_url=emulator.url, active=True)}
    assert emulator.token[1] not in done.stdout + done.stderr


def test_a_token_can_be_typed_and_is_not_shown(env: dict[str, str], emulator: Emulator, config: Path) -> None:
    with Terminal(["auth", "modal", "--stdin"], env) as terminal:
        for question, answer in zip(("Token id", "Token secret"), emulator.token, strict=True):
            terminal.until(question)
            terminal.type(f"{answer}\n")
        assert terminal.finish() == 0, terminal.shown
    assert stored(config)["emulator"]["token_secret"] == emulator.token[1]
    assert not any(part in terminal.shown for part in emulator.token)


@pytest.mark.parametrize(
    ("stdin", "status"), [(f"ak-1\n{SECRET}\n", 4), ("ak-1\n", 2), ("", 2), (f"ak-1 {SECRET} more", 2)]
)
def test_what_is_no_token_is_not_stored(stdin: str, status: int, env: dict[str, str], config: Path) -> None:
    done = mini_here("auth", "modal", "--stdin", env=env, stdin=stdin)
    assert done.returncode == status
    assert SECRET not in done.stdout + done.stderr
    assert not config.parent.exists()


def test_a_token_on_standard_input_can_be_checked_only(
    env: dict[str, str], emulator: Emulator, config: Path
) -> None:
    done = mini_here("auth", "modal", "--stdin", "--check", env=env, stdin=" ".join(emulator.token))
    assert done.returncode == 0, done.stderr
    assert not config.parent.exists()


def test_what_hides_a_stored_token_is_named(
    env: dict[str, str], emulator: Emulator, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env |= {"MODAL_TOKEN_ID": "ak-1"}
    monkeypatch.setattr("modal.config.user_config_path", str(config))  # it is read when modal is imported
    done = mini_here("auth", "modal", "--stdin", env=env, stdin="\n".join(emulator.token))
    assert done.returncode == 0
    assert "MODAL_TOKEN_ID in the environment will be used instead" in done.stderr
