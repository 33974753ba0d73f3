"""`mini auth modal`: say whether there is a token that works, where it comes from, and get one where there is none.

docs/how-to/log-in-to-modal.md has the cases and their exit statuses.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import tomllib
import webbrowser
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .connect import Kind, Problem, hidden, profile_name, run, workspace

if TYPE_CHECKING:
    from modal_proto import api_pb2

__all__ = ["Failed", "authenticate"]

USAGE, NO_TOKEN, BAD_CONFIG, TIMED_OUT = 2, 3, 8, 124
STATUS: dict[Kind, int] = {"token": 4, "network": 5, "certificate": 6, "proxy": 7}

VARIABLES = ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET")
FLOW_SECONDS = 40.0  # one wait of the flow, as long as Modal's own
HOW_WITHOUT = f"set {' and '.join(VARIABLES)}, or pipe both into `mini auth modal --stdin`"


class Failed(Exception):
    """What the command cannot do. `status` is its exit status, and the text is for its user."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Settings:
    """What Modal's client would find: a token, if there is one, and where.

    Attributes:
        token: id and secret.
        source: where the token comes from, for people.
        from_file: it is in the file, where a new one would replace it.
        profile: the profile in use; None if that is left to Modal.
        server_url: the control plane, or several.
    """

    path: Path
    token: tuple[str, str] | None
    source: str
    from_file: bool
    profile: str | None
    server_url: str


def authenticate(*, check: bool, stdin: bool, no_input: bool, seconds: float) -> None:
    """Do what the command does.

    Raises:
        Failed: if it cannot.
    """
    settings = read_settings(environment=not stdin)
    ask = not (check or no_input or in_ci()) and sys.stdin.isatty() and sys.stdout.isatty()
    if stdin:
        token = read_token(hidden_prompts=not no_input and sys.stdin.isatty())
        take(settings, token, keep=not check)
        return
    if settings.token is None:
        if not ask:
            raise Failed(
                NO_TOKEN, f"there is no token for Modal: {HOW_WITHOUT}; on a terminal: mini auth modal"
            )
    else:
        found = run(lambda: workspace(settings.server_url, settings.token))
        if isinstance(found, str):
            click.echo(f"Logged in to Modal: workspace {found}, by {settings.source}.")
            return
        if found.kind != "token":
            raise failed(found)
        rejected = f"Modal rejects {settings.source}: {found.said}"
        if not settings.from_file:
            raise Failed(
                STATUS["token"], f"{rejected}\nCorrect them, or unset both to use the file {settings.path}"
            )
        if not ask:
            raise Failed(
                STATUS["token"],
                f"{rejected}\nFor a new one: mini auth modal, on a terminal; or {HOW_WITHOUT}",
            )
        click.echo(rejected, err=True)
        if not click.confirm("Log in again?", default=True, err=True):
            raise Failed(STATUS["token"], f"{settings.path} is left as it was")
    log_in(settings, seconds)


def failed(problem: Problem) -> Failed:
    return Failed(STATUS[problem.kind], problem.message)


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


# --- what there is --------------------------------------------------------------------------------------------------


def read_settings(*, environment: bool = True) -> Settings:
    """Find the token as Modal's client does, but say what is wrong before it does something odd.

    Args:
        environment: whether a token in the environment counts.

    Raises:
        Failed: the file or the variables are not as they should be.
    """
    path = Path(os.environ.get("MODAL_CONFIG_PATH") or Path.home() / ".modal.toml")
    profiles = read_profiles(path)
    profile = os.environ.get("MODAL_PROFILE") or active_profile(path, profiles)
    values: Mapping[str, Any] = profiles.get(profile or "default", {})
    server_url = os.environ.get("MODAL_SERVER_URL") or values.get("server_url") or default_url()
    token, source, from_file = None, "", False
    if environment and any(name in os.environ for name in VARIABLES):
        token, source = token_of_environment(path), "the token of " + " and ".join(VARIABLES)
    elif values.get("token_id") and values.get("token_secret"):
        token = str(values["token_id"]), str(values["token_secret"])
        source, from_file = f"the token of profile {profile or 'default'} in {path}", True
    return Settings(path, token, source, from_file, profile, str(server_url))


def token_of_environment(path: Path) -> tuple[str, str]:
    """The environment's token. Modal takes id and secret one by one, so that half a pair would mix with the file's."""
    values = {name: os.environ.get(name) for name in VARIABLES}
    bad = [
        f"{name} is {'not set' if value is None else 'empty'}" for name, value in values.items() if not value
    ]
    if bad:
        raise Failed(
            NO_TOKEN,
            f"{' and '.join(bad)}: set {' and '.join(VARIABLES)}, or unset both to use the file {path}",
        )
    token_id, secret = (str(value) for value in values.values())
    return token_id, secret


def read_profiles(path: Path) -> dict[str, dict[str, Any]]:
    try:
        with path.open("rb") as file:
            profiles = tomllib.load(file)
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        # Python's message has the position and none of the text.
        raise Failed(
            BAD_CONFIG, f"{path} is not TOML: {exc}. Correct it, or move it away and log in again"
        ) from None
    except OSError as exc:
        raise Failed(BAD_CONFIG, f"{path} cannot be read: {exc.strerror}") from None
    loose = [name for name, values in profiles.items() if not isinstance(values, dict)]
    if loose:
        raise Failed(
            BAD_CONFIG,
            f"{path}: {', '.join(loose)} is in no profile: put it below a line such as [default]",
        )
    return profiles


def active_profile(path: Path, profiles: Mapping[str, Mapping[str, Any]]) -> str | None:
    active = [name for name, values in profiles.items() if values.get("active", False)]
    if len(active) > 1:
        wrong = f"{len(active)} profiles are active ({', '.join(active)})"
    elif len(profiles) > 1 and not active:
        wrong = f"no profile is active of {', '.join(profiles)}"
    else:
        return active[0] if active else None
    raise Failed(
        BAD_CONFIG,
        f"{path}: {wrong}. Put `active = true` into one and no other, or set MODAL_PROFILE to its name",
    )


def default_url() -> str:
    from modal.config import DEFAULT_SERVER_URL

    return DEFAULT_SERVER_URL


# --- a new one ------------------------------------------------------------------------------------------------------


def read_token(*, hidden_prompts: bool) -> tuple[str, str]:
    """Id and secret from standard input."""
    if hidden_prompts:
        words = [
            click.prompt(what, hide_input=True, err=True).strip() for what in ("Token id", "Token secret")
        ]
    else:
        words = sys.stdin.read(1 << 16).split()
    if len(words) != 2 or not all(words):
        raise Failed(USAGE, "--stdin expects a token's id and its secret, on a line each")
    return words[0], words[1]


def take(settings: Settings, token: tuple[str, str], *, keep: bool) -> None:
    """Verify a token that somebody has, and store it."""
    named = run(lambda: profile_name(settings.server_url, token))
    if isinstance(named, Problem):
        if named.kind == "token":
            raise Failed(
                STATUS["token"], f"Modal rejects the token of standard input: {hidden(named.said, token)}"
            )
        raise failed(named)
    if not keep:
        click.echo(f"Modal accepts the token of standard input: workspace {named}. It is not stored.")
        return
    with private(settings.path):
        store(settings, token, named)


def log_in(settings: Settings, seconds: float) -> None:
    """Get a token by way of a browser, and store it."""
    problem = run(lambda: workspace(settings.server_url, None))
    if isinstance(problem, Problem):
        raise failed(problem)
    # Before somebody goes to a browser it should be known that what comes of it can be kept.
    with private(settings.path):
        got = run(lambda: flow(settings.server_url, seconds))
        store(settings, (got.token_id, got.token_secret), got.workspace_username)


async def flow(server_url: str, seconds: float) -> api_pb2.TokenFlowWaitResponse:
    from grpclib import GRPCError
    from modal.client import _Client
    from modal.exception import ConnectionError as ModalConnectionError
    from modal.exception import NotFoundError, ServiceError
    from modal.token_flow import _TokenFlow

    expired = Failed(TIMED_OUT, "nobody has approved the login in time; to try again: mini auth modal")
    try:
        async with asyncio.timeout(seconds), _Client.anonymous(server_url) as client:
            login = _TokenFlow(client)
            async with login.start() as (_, url, code):
                click.echo("To log in to Modal, open this page in a browser, on whichever machine:\n")
                click.echo(f"  {url}\n")
                if code:
                    click.echo(f"It shows a code, which has to be this one: {code}\n")
                if not open_browser(url):
                    click.echo("(No browser can be opened from here.)")
                click.echo(f"Waiting for {seconds / 60:.3g} minutes; Ctrl-C ends it.")
                while True:
                    # A wait that is cut off, by a proxy perhaps, is no reason to give up.
                    with contextlib.suppress(
                        ModalConnectionError, ServiceError, GRPCError, TimeoutError, OSError
                    ):
                        got = await login.finish(timeout=min(FLOW_SECONDS, seconds))
                        if got is not None:
                            return got
                    await asyncio.sleep(0.2)
    except TimeoutError:
        raise expired from None
    except NotFoundError:  # it is too old for the server
        raise expired from None


def open_browser(url: str) -> bool:
    """Open a page if there is a browser with a window; False if there is none."""
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return False
    # What is not asked for by name and has no window would take the terminal.
    if (
        isinstance(browser, webbrowser.GenericBrowser)
        and not os.environ.get("BROWSER")
        and browser.name != "open"
    ):
        return False
    # It may take as long as it is open.
    threading.Thread(target=lambda: browser.open_new_tab(url), name="mini-modal-browser", daemon=True).start()
    return True


@contextlib.contextmanager
def private(path: Path) -> Iterator[None]:
    """Have a file that only its user can read before there is something to read in it; gone again if nothing came."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            if os.fstat(file).st_mode & 0o077:
                os.fchmod(file, 0o600)
        finally:
            os.close(file)
    except OSError as exc:
        raise Failed(BAD_CONFIG, f"{path} cannot be written: {exc.strerror}") from None
    try:
        yield
    finally:
        if path.stat().st_size == 0:
            path.unlink()


def store(settings: Settings, token: tuple[str, str], name: str) -> None:
    """Put a token into the file, in the profile that Modal's own commands would."""
    from modal.config import DEFAULT_SERVER_URL, _store_user_config

    profile = os.environ.get("MODAL_PROFILE") or name
    values = {"token_id": token[0], "token_secret": token[1]}
    if settings.server_url != DEFAULT_SERVER_URL:
        values["server_url"] = settings.server_url
    _store_user_config(values, profile=profile, active_profile=profile)
    click.echo(f"Logged in to Modal: workspace {name}. The token is in {settings.path}, profile {profile}.")
    set_too = [name for name in VARIABLES if name in os.environ]
    if set_too:
        click.echo(
            f"But {' and '.join(set_too)} in the environment will be used instead: unset them.", err=True
        )
