"""Which addresses are acceptable, and which authorities are trusted."""

import ssl
from pathlib import Path

import pytest

from locum.client.trust import check_url, is_loopback, tls_context
from locum.errors import LocumError


@pytest.mark.parametrize(
    "url", ["https://a.example", "https://a.example:8443/", "http://127.0.0.1:8000", "http://localhost:1", "http://[::1]:2", "http://127.9.9.9"]
)
def test_good_addresses(url: str) -> None:
    assert check_url(url, plain=False) == url.rstrip("/")


@pytest.mark.parametrize(
    "url", ["", "a.example", "ftp://a", "https://", "http://a.example", "http://10.0.0.1", "http://localhost.evil.example", "http://127.0.0.1.evil.example"]
)
def test_bad_addresses(url: str) -> None:
    with pytest.raises(LocumError):
        check_url(url, plain=False)


def test_plain_http_where_the_operator_says_so() -> None:
    assert check_url("http://coordinator.internal", plain=True) == "http://coordinator.internal"
    assert not is_loopback("http://coordinator.internal")


def test_contexts_verify_and_are_shared(inspector: tuple[ssl.SSLContext, Path]) -> None:
    ca = inspector[1].read_text()
    context = tls_context(ca)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert tls_context(ca) is context
    assert tls_context() is not context
    assert len(context.get_ca_certs()) > 0


def test_a_ca_that_is_no_pem() -> None:
    with pytest.raises(LocumError, match="PEM"):
        tls_context("hello")
