"""Signatures of certificates: HMAC-SHA256 under a shared key, and Ed25519, which anybody can check.

    hmac-sha256   the key is the environment variable ``ONNXPOOL_SIGNING_KEY``; who can check can also sign
    ed25519       a private key in a PEM file signs, the public key in another one checks; needs ``onnxpool[sign]``

A certificate has the one, the other, both or none. Keys are made by ``openssl genpkey -algorithm ed25519 -out key.pem``
and ``openssl pkey -in key.pem -pubout -out key.pub.pem``. No key stands in a certificate: a checker brings the public
key, from where it trusts.
"""

import hmac
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from onnxpool.errors import CertificateError, MissingExtra
from onnxpool.runtimes._child import SIGNING_KEY

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

HMAC, ED25519 = "hmac-sha256", "ed25519"

KEY = SIGNING_KEY
"""Environment variable of the key that signs certificates and checks signatures."""

_PURPOSE = b"onnxpool certificate\n"
"""Stands before what Ed25519 signs, so that a signature of this key over anything else cannot pass for one."""

KeyFile: TypeAlias = str | os.PathLike[str]


def sign(text: bytes, private_key: KeyFile | None) -> dict[str, str]:
    """The signatures of ``text``, in hexadecimal, by scheme: by the private key, if any, and by ``KEY`` if it is set.

    Raises :class:`CertificateError` for a key that cannot be used, and :class:`MissingExtra` without cryptography.
    """
    made = {}
    if key := shared_key():
        made[HMAC] = hmac.digest(key, text, "sha256").hex()
    if private_key is not None:
        made[ED25519] = _private(private_key).sign(_PURPOSE + text).hex()
    return made


def faults(text: bytes, signatures: Mapping[str, str], public_key: KeyFile | None) -> Iterator[str]:
    """What is wrong with the signatures, for one who has these keys. Raises as :func:`sign`."""
    if key := shared_key():
        if HMAC not in signatures:
            yield f"it is not signed with a shared key, and {KEY} asks for that"
        elif not hmac.compare_digest(hmac.digest(key, text, "sha256").hex().encode(), signatures[HMAC].encode()):
            yield f"its signature was not made with this {KEY}"
    if public_key is not None:
        signer = _public(public_key)
        if ED25519 not in signatures:
            yield f"it is not signed with a private key, and {public_key} asks for that"
        elif not _verified(signer, signatures[ED25519], text):
            yield f"its signature was not made with the private key of {public_key}"


def unchecked(signatures: Mapping[str, str], public_key: KeyFile | None) -> Iterator[str]:
    """The signatures that nobody has checked, for want of a key."""
    if HMAC in signatures and not shared_key():
        yield f"its signature was not checked: {KEY} is not set"
    if ED25519 in signatures and public_key is None:
        yield "its signature was not checked: no public key was given"


def shared_key() -> bytes | None:
    """The key of ``KEY``; None where that is not set. :class:`CertificateError` where it is empty."""
    key = os.environ.get(KEY)
    if key is not None and not key.strip():
        raise CertificateError(f"{KEY} is set, but empty: give it a key, or unset it")
    return key.encode("utf-8", "surrogateescape") if key else None


def _private(path: KeyFile) -> "Ed25519PrivateKey":
    serialization, ed25519 = _cryptography()
    try:
        key = serialization.load_pem_private_key(Path(path).read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:  # TypeError: it has a password
        raise CertificateError(f"{path} cannot be used as a private key (PEM, without a password): {error}") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise CertificateError(f"{path} holds a {type(key).__name__}, not a private key of Ed25519")
    found: Ed25519PrivateKey = key
    return found


def _public(path: KeyFile) -> "Ed25519PublicKey":
    serialization, ed25519 = _cryptography()
    try:
        key = serialization.load_pem_public_key(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise CertificateError(f"{path} cannot be used as a public key (PEM): {error}") from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise CertificateError(f"{path} holds a {type(key).__name__}, not a public key of Ed25519")
    found: Ed25519PublicKey = key
    return found


def _verified(key: "Ed25519PublicKey", signature: str, text: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(bytes.fromhex(signature), _PURPOSE + text)
    except (InvalidSignature, ValueError):  # ValueError: not hexadecimal
        return False
    return True


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise MissingExtra("cryptography", "sign", "a signature by a private key") from error
    return serialization, ed25519
