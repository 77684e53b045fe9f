"""From an invitation to a site: every way it can go wrong is told to the person who pasted it."""

import base64
from pathlib import Path
from typing import Any

import msgspec
import pytest

from locum.client import Membership, Patience
from locum.coordinator.server import invite
from locum.errors import Conflict, DataError, LocumError, ManifestError, NotEnrolled, Unavailable
from locum.federation.identity import Identity
from locum.federation.wire import Invitation
from locum.site import folder as site_folder

QUICK = Patience(first_s=0.01, attempts=2)


def test_enroll_twice_is_the_same_site(federation: Any, tmp_path: Path) -> None:
    text = invite(federation.folder, "twice")
    first = site_folder.enroll(tmp_path / "s", text)
    assert site_folder.enroll(tmp_path / "s", f"  {text[:20]}\n{text[20:]} ") == first
    assert Membership.load(tmp_path / "s") == first
    assert first.coordinator.fingerprint == federation.folder.identity.public.fingerprint
    assert site_folder.load_config(tmp_path / "s") == site_folder.SiteConfig()
    assert (tmp_path / "s" / "key.pem").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("text", ["", "hello", "locum1:", "locum1:!!!", "locum1:" + base64.urlsafe_b64encode(b"{}").decode(), "locum1:" + "A" * 20_000])
def test_text_that_is_no_invitation(tmp_path: Path, text: str) -> None:
    with pytest.raises(NotEnrolled, match=r"invitation|Invitation"):
        site_folder.enroll(tmp_path / "s", text)
    assert not (tmp_path / "s").exists()


def test_an_invitation_cut_off(federation: Any, tmp_path: Path) -> None:
    with pytest.raises(NotEnrolled, match="damaged or cut off"):
        site_folder.enroll(tmp_path / "s", invite(federation.folder, "cutoff")[:-30])


def test_an_expired_invitation(federation: Any, tmp_path: Path) -> None:
    with pytest.raises(NotEnrolled, match="expired") as error:
        site_folder.enroll(tmp_path / "s", invite(federation.folder, "late", valid_days=-1.0))
    assert "new one" in error.value.fix
    with pytest.raises(NotEnrolled, match="not enrolled"):
        Membership.load(tmp_path / "s")


def test_an_invitation_that_somebody_else_used(federation: Any, tmp_path: Path) -> None:
    text = invite(federation.folder, "stolen")
    site_folder.enroll(tmp_path / "one", text)
    with pytest.raises(NotEnrolled, match="used already"):
        site_folder.enroll(tmp_path / "two", text)


def test_an_invitation_for_another_role(federation: Any, tmp_path: Path) -> None:
    with pytest.raises(NotEnrolled, match="for an investigator, not for a site"):
        site_folder.enroll(tmp_path / "s", invite(federation.folder, "bob", "investigator"))


def test_an_invitation_of_another_coordinator(federation: Any, tmp_path: Path) -> None:
    """The token went to somebody who answers at the address but does not hold the key: the proof does not fit there."""
    real = Invitation.parse(invite(federation.folder, "mixed"))
    fake = msgspec.structs.replace(real, coordinator_key=str(Identity.generate().public))
    with pytest.raises(NotEnrolled):
        site_folder.enroll(tmp_path / "s", fake.text())


def test_a_folder_has_one_federation(federation: Any, tmp_path: Path) -> None:
    site_folder.enroll(tmp_path / "s", invite(federation.folder, "first"))
    with pytest.raises(Conflict, match="already enrolled as 'first'"):
        site_folder.enroll(tmp_path / "s", invite(federation.folder, "second"))


def test_a_coordinator_that_is_away_and_plain_http_beyond_loopback(federation: Any, tmp_path: Path) -> None:
    real = Invitation.parse(invite(federation.folder, "away"))
    away = msgspec.structs.replace(real, url="http://127.0.0.1:9").text()
    with pytest.raises(Unavailable, match="cannot be reached"):
        site_folder.enroll(tmp_path / "s", away, patience=QUICK)
    plain = msgspec.structs.replace(real, url="http://locum.example.org").text()
    with pytest.raises(LocumError, match="not encrypted"):
        site_folder.enroll(tmp_path / "t", plain, patience=QUICK)


def test_a_ca_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(b"\xff\xfe")
    with pytest.raises(LocumError, match="PEM"):
        site_folder.enroll(tmp_path / "s", "x", ca=tmp_path / "ca.pem")


def test_add_data_names_the_columns(federation: Any, tmp_path: Path) -> None:
    site = federation.site("data", "age;sex\n3;m\n")
    (tmp_path / "map.toml").write_text(f'[source]\npath = "{site / "table.csv"}"\n[columns]\nx = "age"\n')
    added = site_folder.add_data(site, "mapped", mapping=tmp_path / "map.toml")
    assert added.columns == ("age", "sex")
    assert added.same_as == ("main",)  # told, and no error: two mappings of one table
    assert [d.name for d in site_folder.list_data(site)] == ["main", "mapped"]
    (tmp_path / "other.csv").write_text("age\n4\n")
    assert site_folder.add_data(site, "other", tmp_path / "other.csv").same_as == ()


@pytest.mark.parametrize(
    ("name", "source", "mapping", "error", "says"),
    [
        ("Bad Name", "table.csv", None, ManifestError, "not a name"),
        ("x", "absent.csv", None, DataError, "no file"),
        ("x", None, None, ManifestError, "No data file"),
        ("x", "table.csv", "bad.toml", ManifestError, "did you mean 'columns'"),
        ("x", "table.dat", None, ManifestError, "What kind of data"),
    ],
)
def test_add_data_refuses(federation: Any, name: str, source: str | None, mapping: str | None, error: type[LocumError], says: str) -> None:
    site = federation.site("refuse")
    (site / "bad.toml").write_text("[colums]\nx = 'y'\n")
    (site / "table.dat").write_text("x\n1\n")
    with pytest.raises(error, match=says):
        site_folder.add_data(site, name, site / source if source else None, site / mapping if mapping else None)
    assert [d.name for d in site_folder.list_data(site)] == ["main"]


def test_a_policy_with_an_unknown_key_names_the_nearest(federation: Any) -> None:
    site = federation.site("policy")
    (site / "site.toml").write_text("[policy]\nmin_cohorts = 4\n")
    with pytest.raises(ManifestError, match="did you mean 'min_cohort'"):
        site_folder.load_config(site)


def test_a_folder_that_is_no_site(tmp_path: Path) -> None:
    with pytest.raises(NotEnrolled, match="not enrolled"):
        site_folder.list_data(tmp_path)
    (tmp_path / "membership.json").write_text("{")
    with pytest.raises(LocumError, match="damaged"):
        site_folder.list_data(tmp_path)


def test_a_link_that_leads_to_itself(federation: Any) -> None:
    site = federation.site("links")
    (site / "loop.csv").symlink_to(site / "loop.csv")
    with pytest.raises(LocumError):
        site_folder.add_data(site, "main", site / "loop.csv")
    with pytest.raises(ManifestError, match="leads to no file"):
        site_folder.add_data(site, "main", site / "table.csv", site / "loop.csv")
