"""Whom a TLS connection trusts: the system's authorities, those of SSL_CERT_FILE, and one that was given."""

from __future__ import annotations

import ipaddress
import os
import ssl
from functools import lru_cache
from urllib.parse import urlsplit

import certifi

from locum.errors import LocumError


def check_url(url: str, *, plain: bool) -> str:
    """The URL without a trailing slash. http is for loopback, or where the operator said `plain`. Raises `LocumError`."""
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise LocumError(f"'{url}' is not the address of a coordinator.", fix="it starts with https:// and names a host")
    if parts.scheme == "http" and not (plain or is_loopback(url)):
        raise LocumError(f"'{url}' is not encrypted.", why="Updates would cross the network in clear text.", fix="use https://, or allow plain HTTP explicitly")
    return url.rstrip("/")


def is_loopback(url: str) -> bool:
    """Whether the URL's host is this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def tls_context(ca: str = "") -> ssl.SSLContext:
    """A verifying context; `ca` (PEM text) is trusted besides the system's. Shared between connections: it is large.

    Raises `LocumError` if `ca` is not PEM text.
    """
    return _context(ca, os.environ.get("SSL_CERT_FILE", ""), os.environ.get("SSL_CERT_DIR", ""))


@lru_cache(maxsize=16)
def _context(ca: str, cert_file: str, cert_dir: str) -> ssl.SSLContext:
    context = ssl.create_default_context()  # OpenSSL itself reads SSL_CERT_FILE and SSL_CERT_DIR
    paths = ssl.get_default_verify_paths()
    if not (cert_file or cert_dir or paths.cafile or paths.capath):
        context.load_verify_locations(certifi.where())
    if ca:
        try:
            context.load_verify_locations(cadata=ca)
        except (ssl.SSLError, ValueError):
            raise LocumError(
                "The certificate authority that was given is not PEM text.", fix="give the file that starts with -----BEGIN CERTIFICATE-----"
            ) from None
    return context
