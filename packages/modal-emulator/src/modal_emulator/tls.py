"""Certificates: a private authority, what it issues, and the server's context.

`Authority` makes what a real one would, and what a test of somebody's error handling needs: certificates that have
expired, are for another host, or are signed by nobody, and authorities without key identifiers.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["LOOPBACK", "Authority", "Certificate", "self_signed"]

LOOPBACK = ("localhost", "127.0.0.1", "::1")
PERMITTED = ("localhost", "127.0.0.0/8", "::1/128")
"""All that the authority of a server can vouch for, whoever gets hold of its key."""
CA_DAYS, DAYS = 3650, 397
RENEW = dt.timedelta(days=30)
# Without a common name: OpenSSL would take it for one more host, which limits of an authority apply to.
SERVER = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "modal-emulator")])
SKEW = dt.timedelta(hours=1)  # by which clocks of one network may differ


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with those above it that a server sends, and its key, as PEM."""

    chain: bytes
    key: bytes

    def context(self, alpn: Sequence[str] = ("h2",)) -> ssl.SSLContext:
        """A server's context with this certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(list(alpn))
        # The ssl module only reads files.
        with tempfile.TemporaryDirectory(prefix="modal-emulator-tls-") as folder:
            path = Path(folder, "server.pem")
            _write(path, self.key + self.chain, 0o600)
            context.load_cert_chain(path)
        return context


class Authority:
    """A certificate authority."""

    def __init__(
        self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, *, aki: bool = True
    ) -> None:
        self.certificate = certificate
        self._key = key
        self._aki = aki

    @classmethod
    def create(
        cls,
        name: str = "modal-emulator",
        *,
        permitted: Sequence[str] | None = None,
        aki: bool = True,
        critical: bool = True,
        not_before: dt.datetime | None = None,
        not_after: dt.datetime | None = None,
    ) -> Authority:
        """A new authority.

        Args:
            permitted: the DNS names and networks that it can vouch for; None for all.
            aki: whether its certificate, and those that it issues, name the key that signed them. Strict verification,
                the default since Python 3.13, rejects those that do not.
            critical: whether its basic constraints are, which strict verification wants too.
            not_before, not_after: when it is valid; ten years from now by default.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "modal-emulator"),
                x509.NameAttribute(NameOID.COMMON_NAME, f"{name} CA"),
            ]
        )
        builder = _builder(subject, subject, key, not_before, not_after, CA_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=critical)
        builder = builder.add_extension(_usage(ca=True), critical=True)
        builder = builder.add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        )
        if aki:
            issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
            builder = builder.add_extension(issuer, critical=False)
        if permitted is not None:
            names = [_constraint(each) for each in permitted]
            builder = builder.add_extension(x509.NameConstraints(names, None), critical=True)
        return cls(builder.sign(key, hashes.SHA256()), key, aki=aki)

    @classmethod
    def kept(cls, folder: Path) -> Authority:
        """The authority that a folder has as ca.pem and ca-key.pem, for this machine's own names; made if need be."""
        cert, secret = folder / "ca.pem", folder / "ca-key.pem"
        try:
            key = serialization.load_pem_private_key(secret.read_bytes(), None)
            authority = cls(x509.load_pem_x509_certificate(cert.read_bytes()), key)  # type: ignore[arg-type]
        except FileNotFoundError:
            authority = None
        if authority is None or authority.not_after - RENEW < _now():
            authority = cls.create(permitted=PERMITTED)
            _write(secret, _pem(authority._key), 0o600)
            _write(cert, authority.pem, 0o644)
        return authority

    @property
    def pem(self) -> bytes:
        """Its certificate: what a client has to trust."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def not_after(self) -> dt.datetime:
        # not_valid_after_utc is there since cryptography 42.
        return self.certificate.not_valid_after_utc

    def issue(
        self,
        hosts: Sequence[str] = LOOPBACK,
        *,
        not_before: dt.datetime | None = None,
        not_after: dt.datetime | None = None,
    ) -> Certificate:
        """A server's certificate for these DNS names and addresses; valid for about a year from now by default."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _leaf(hosts, self.certificate.subject, key, not_before, not_after)
        if self._aki:
            identifier = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
            builder = builder.add_extension(issuer, critical=False)
        leaf = builder.sign(self._key, hashes.SHA256())
        return Certificate(leaf.public_bytes(serialization.Encoding.PEM) + self.pem, _pem(key))


def self_signed(hosts: Sequence[str] = LOOPBACK) -> Certificate:
    """A server's certificate that nobody but itself vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _leaf(hosts, SERVER, key, None, None)
    return Certificate(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM), _pem(key))


def _leaf(
    hosts: Sequence[str],
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    not_before: dt.datetime | None,
    not_after: dt.datetime | None,
) -> x509.CertificateBuilder:
    builder = _builder(SERVER, issuer, key, not_before, not_after, DAYS)
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(ca=False), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (x509.SubjectAlternativeName([_general_name(host) for host in hosts]), False),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
    ]
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    not_before: dt.datetime | None,
    not_after: dt.datetime | None,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before or _now() - SKEW)
        .not_valid_after(not_after or _now() + dt.timedelta(days=days))
    )


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _constraint(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_network(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, data: bytes, mode: int) -> None:
    """Write a file that at no moment more than `mode` allows can read, and that is there whole or not at all."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(data)
    temporary.replace(path)
