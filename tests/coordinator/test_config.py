"""The folder: what init writes, who may read it, and how mistakes are named."""

import ssl
import stat

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from locum.coordinator import Folder, init_folder, invite
from locum.errors import LocumError, ManifestError
from locum.federation.identity import PublicKey
from locum.federation.wire import Invitation, federation_id


def test_init_and_open(tmp_path) -> None:
    made = init_folder(tmp_path / "c", url="https://locum.example.org:9443", name="trial")
    opened = Folder.open(tmp_path / "c")
    assert opened.settings == made.settings
    assert (opened.settings.host, opened.settings.port) == ("0.0.0.0", 9443)
    assert opened.database == f"sqlite:///{tmp_path / 'c' / 'coordinator.db'}"
    for name in ("coordinator.key", "ca.key", "server.key", "metrics.token", "coordinator.toml"):
        assert stat.S_IMODE((tmp_path / "c" / name).stat().st_mode) == 0o600, name
    with pytest.raises(LocumError, match="already holds"):
        init_folder(tmp_path / "c")


def test_the_certificate_is_good_for_the_host_and_loopback(tmp_path) -> None:
    folder = init_folder(tmp_path, url="https://locum.example.org:9443")
    server = x509.load_pem_x509_certificate((tmp_path / "server.crt").read_bytes())
    ca = x509.load_pem_x509_certificate(folder.ca.encode())
    server.verify_directly_issued_by(ca)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["locum.example.org", "localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert server.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value == x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(ca=True, path_length=0)
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(*folder.certificate())


def test_an_invitation_says_where_and_whom_to_trust(tmp_path) -> None:
    folder = init_folder(tmp_path, url="https://locum.example.org:9443")
    invitation = Invitation.parse(invite(tmp_path, "charite", valid_days=2))
    assert (invitation.url, invitation.name, invitation.role) == ("https://locum.example.org:9443", "charite", "site")
    assert invitation.ca == folder.ca
    assert federation_id(PublicKey.parse(invitation.coordinator_key)) == folder.federation
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("coordinator.db*"))
    assert b"charite" in stored
    assert invitation.token.encode() not in stored  # only its digest is kept


def test_without_tls_there_is_no_authority(tmp_path) -> None:
    folder = init_folder(tmp_path, url="http://127.0.0.1:8080")
    assert (folder.certificate(), folder.ca, folder.settings.host) == (None, "", "127.0.0.1")
    assert not (tmp_path / "ca.key").exists()


def test_behind_a_proxy_the_address_is_https_and_the_service_is_not(tmp_path) -> None:
    folder = init_folder(tmp_path, url="https://locum.example.org", tls=False, host="127.0.0.1", port=8080)
    assert (folder.certificate(), folder.ca, folder.settings.port) == (None, "", 8080)


def test_the_environments_database_goes_first(tmp_path, monkeypatch) -> None:
    folder = init_folder(tmp_path)
    monkeypatch.setenv("LOCUM_DATABASE_URL", "postgresql://u:secret@h/d")
    assert folder.database == "postgresql://u:secret@h/d"
    assert "secret" not in repr(folder)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('blob = "file"', "did you mean 'blobs'"),
        ('blobs = "ftp://x"', "s3://bucket/prefix"),
        ("port = 70000", "port"),
        ('log = "xml"', "log"),
        ("=", "not valid TOML"),
    ],
)
def test_mistakes_in_the_settings_are_named(tmp_path, line, says) -> None:
    init_folder(tmp_path)
    text = (tmp_path / "coordinator.toml").read_text()
    kept = "".join(row for row in text.splitlines(keepends=True) if not row.startswith(line.split(" ")[0] + " "))
    (tmp_path / "coordinator.toml").write_text(kept + line + "\n")
    with pytest.raises(ManifestError, match=says):
        Folder.open(tmp_path)


@pytest.mark.parametrize("url", ["", "localhost:8443", "ftp://x", "https://x/path", "https://x?q=1"])
def test_bad_addresses(tmp_path, url) -> None:
    with pytest.raises(ManifestError, match="url must be like"):
        init_folder(tmp_path, url=url)


def test_no_coordinator_here(tmp_path) -> None:
    with pytest.raises(ManifestError, match="There is no file"):
        Folder.open(tmp_path)


def test_a_key_that_others_can_read_is_refused(tmp_path) -> None:
    init_folder(tmp_path)
    (tmp_path / "coordinator.key").chmod(0o644)
    with pytest.raises(LocumError, match="can be read by others"):
        _ = Folder.open(tmp_path).identity
