"""Whom Modal's client trusts: what it does by itself, and what this machine does.

Modal's client knows the certificates that come with certifi. Where a proxy opens TLS and signs for the hosts behind
it, nothing but the machine's own store, or a file that an environment variable names, knows the proxy's CA.

Three places of Modal's client make TLS contexts, and those three are widened: the channels of gRPC, the HTTP client for
blobs and volumes, and the channel of sandboxes. No other connection of the process is touched, and no check is turned
off: certificates still have to be valid, for the host, and signed by somebody who is trusted.
"""

from __future__ import annotations

import os
import ssl
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import certifi

__all__ = ["ensure_grpc_trusts_system_ca"]

FILES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Variables that name a file; those but the first may name a folder, too, because requests takes one."""
FOLDERS = "SSL_CERT_DIR"

# Python's OpenSSL need not be the distribution's, and then looks for the store elsewhere.
DISTRIBUTIONS = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch, Gentoo
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Fedora, RHEL
    "/etc/pki/tls/certs/ca-bundle.crt",  # older ones of those
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # Alpine, BSD
)

_lock = threading.Lock()
_undo: Callable[[], None] | None = None
_named: tuple[_Source, ...] = ()
_sources: tuple[_Source, ...] = ()
_router_context: ssl.SSLContext | None = None
_warned: set[str] = set()


def ensure_grpc_trusts_system_ca() -> Callable[[], None]:
    """Have Modal's client trust what this machine trusts, behind a proxy that inspects TLS as well.

    That is, beside certifi's certificates: on Linux those of the system, and of the files and folders that the
    variables SSL_CERT_FILE, SSL_CERT_DIR, REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE name; on macOS and Windows what the
    system itself decides, and those files. It concerns the connections that Modal's client makes from now on, and no
    other, and none of them is checked less.

    May be called before or after `import modal`, and again: then the variables are read anew. In a container of Modal's
    it does nothing.

    Returns:
        What takes it back: Modal's client is then as it was.
    """
    global _undo, _named, _sources, _router_context
    if os.environ.get("MODAL_IS_REMOTE") == "1":
        return _nothing
    with _lock:
        named = tuple(_named_by_environment())
        if _undo is None or named != _named:  # to look at them takes a while
            _named, _sources = named, tuple(_usable(named))
            _router_context = None
        if _undo is None:
            _undo = _install()
    return _restore


def _nothing() -> None:
    pass


def _restore() -> None:
    global _undo, _router_context
    with _lock:
        if _undo is not None:
            _undo()
        _undo = _router_context = None


def _install() -> Callable[[], None]:
    import modal  # noqa: F401  # its modules cannot be imported in any other order
    from grpclib.client import Channel
    from modal._utils import http_utils
    from modal._utils.grpc_utils import ModalChannel
    from modal.sandbox import _task_command_router_client as router

    original_client = http_utils._http_client_with_tls
    original_router = router._shared_verifying_ssl_context

    def channel_context(self: Any, *, verify_paths: ssl.DefaultVerifyPaths | None = None) -> ssl.SSLContext:
        context = Channel._get_default_ssl_context(self, verify_paths=verify_paths)
        if verify_paths is not None:  # somebody has said whom to trust
            return context
        if not _asks_system():
            return _widened(context)
        context = _system_context()
        context.set_alpn_protocols(["h2"])
        return context

    def client(timeout: float | None) -> Any:
        session = original_client(timeout)
        connector: Any = session.connector
        if _asks_system():
            connector._ssl = _system_context()
        else:
            _widened(connector._ssl)
        return session

    def router_context() -> ssl.SSLContext:
        # One for the process, like Modal's own, which is not to be modified: reading the store takes a while.
        global _router_context
        if _router_context is None:
            # With certifi's as well: not every machine has a store.
            made = _system_context() if _asks_system() else ssl.create_default_context(cafile=certifi.where())
            _router_context = made if _asks_system() else _widened(made)
        return _router_context

    ModalChannel._get_default_ssl_context = channel_context  # type: ignore[method-assign]
    http_utils._http_client_with_tls = client
    router._shared_verifying_ssl_context = router_context

    def undo() -> None:
        # What somebody else has put in their place meanwhile stays.
        if vars(ModalChannel).get("_get_default_ssl_context") is channel_context:
            del ModalChannel._get_default_ssl_context
        if http_utils._http_client_with_tls is client:
            http_utils._http_client_with_tls = original_client
        if router._shared_verifying_ssl_context is router_context:
            router._shared_verifying_ssl_context = original_router

    return undo


# --- contexts -------------------------------------------------------------------------------------------------------


def _asks_system() -> bool:
    """Whether the system has an interface that decides; elsewhere there are files."""
    return sys.platform in ("darwin", "win32")


def _widened(context: ssl.SSLContext) -> ssl.SSLContext:
    """Add to whom a context trusts. What it checks stays, but for the form of certificates of CAs.

    Since Python 3.13 a certificate without an authority key identifier is rejected; those of many companies' CAs are
    such, and every other program takes them.
    """
    context.load_default_certs()
    for source in (*_of_system(), *_sources):
        with suppress(OSError):
            source.load(context)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _system_context() -> ssl.SSLContext:
    """A context that asks the system, and trusts certifi's and the environment's certificates as well."""
    import truststore

    context: ssl.SSLContext = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for source in (_Source(certifi.where()), *_sources):
        with suppress(OSError):
            source.load(context)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


# --- where certificates are -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Source:
    """A file or a folder with certificates, and the variable that named it, if one did."""

    path: str
    variable: str = ""

    def load(self, context: ssl.SSLContext) -> None:
        """Raises OSError if there is nothing to load."""
        if not Path(self.path).is_dir():
            context.load_verify_locations(cafile=self.path)
        elif _is_hashed(self.path):
            context.load_verify_locations(capath=self.path)
        else:
            # OpenSSL only finds files that are called by the hash of what they hold; people put others there, too.
            found = False
            for file in sorted(Path(self.path).iterdir()):
                with suppress(OSError):
                    context.load_verify_locations(cafile=file)
                    found = True
            if not found:
                raise OSError("no file in it has certificates in PEM form")

    def problem(self) -> str | None:
        """What is wrong with it; None if nothing is."""
        try:
            self.load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        except FileNotFoundError:
            return "which is not there"
        except ssl.SSLError:
            return _why_not_pem(Path(self.path))
        except OSError as exc:
            return f"which cannot be used: {exc.strerror or exc}"
        return None


def _named_by_environment() -> Iterator[_Source]:
    for variable in FILES:
        if path := os.environ.get(variable):
            yield _Source(path, variable)
    for path in os.environ.get(FOLDERS, "").split(os.pathsep):
        if path:
            yield _Source(path, FOLDERS)


def _usable(sources: Iterable[_Source]) -> Iterator[_Source]:
    for source in sources:
        problem = source.problem()
        if problem is None:
            yield source
            continue
        message = f"{source.variable} names {source.path}, {problem}; the other certificates are used"
        if message not in _warned:
            _warned.add(message)
            warnings.warn(message, RuntimeWarning, stacklevel=3)


def _of_system() -> Iterator[_Source]:
    seen = set()
    for path in DISTRIBUTIONS:
        real = os.path.realpath(path)
        if real not in seen and Path(real).is_file():
            seen.add(real)
            yield _Source(real)


def _is_hashed(folder: str) -> bool:
    return any(
        len(name) > 9 and name[8] == "." and name[9:].isdigit() and set(name[:8]) <= set("0123456789abcdef")
        for name in (path.name for path in Path(folder).iterdir())
    )


def _why_not_pem(path: Path) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError as exc:
        return f"which cannot be read: {exc.strerror}"
    if not start:
        return "which is empty"
    if start[0] == 0x30 and start[1] >= 0x80:  # how DER begins
        return f"which is in DER form and has to be in PEM: openssl x509 -inform der -in {path} -out {path.stem}.pem"
    return "in which there is no certificate in PEM form"
