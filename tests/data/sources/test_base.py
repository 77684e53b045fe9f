"""What a data manager is told where a source is not described, and that what it says is true."""

import re
import tomllib
from pathlib import Path

import pytest

from locum.data import open_source
from locum.data.mapping import SiteMapping
from locum.data.sources.base import KINDS, SourceSpec
from locum.data.sources.hints import EXAMPLES, FOLDERS, example
from locum.errors import LocumError, ManifestError

ROOT = Path(__file__).parents[3]


def test_a_kind_that_needs_more_than_a_path_says_what_to_write(tmp_path: Path) -> None:
    file = tmp_path / "export.ndjson"
    file.write_text('{"resourceType": "Patient"}\n')
    with pytest.raises(ManifestError) as caught:
        open_source(SourceSpec(), file)
    assert caught.value.what.startswith("export.ndjson is read as fhir, and nothing says how: ")
    assert "view" in caught.value.what
    assert "--mapping" in caught.value.fix
    assert tomllib.loads(caught.value.fix.partition("for example:\n")[2])["source"] == {"type": "fhir", "path": str(file), "view": "view.json"}
    with pytest.raises(ManifestError, match=r"'size' is missing") as caught:
        SiteMapping.parse({"source": {"type": "dicom", "path": "images"}})
    assert 'path = "images"' in caught.value.fix


@pytest.mark.parametrize("kind", KINDS)
def test_the_examples_are_complete(kind: str) -> None:
    """Every kind that cannot do without an option has an example, and no other."""
    shown = tomllib.loads(example(kind).partition("for example:\n")[2]) if kind in EXAMPLES else {"source": {"type": kind}}
    assert SiteMapping.parse(shown).source.type == kind
    if kind in EXAMPLES:
        with pytest.raises(ManifestError):
            SiteMapping.parse({"source": {"type": kind}})


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "fhir_search"])
def test_which_kinds_read_folders(kind: str, tmp_path: Path) -> None:
    spec = SiteMapping.parse(tomllib.loads(example(kind).partition("for example:\n")[2]) if kind in EXAMPLES else {"source": {"type": kind}}).source
    said = ""
    try:
        open_source(spec, tmp_path)
    except LocumError as error:
        said = error.what
    assert ("is a folder" in said) == (kind not in FOLDERS)


def test_a_folder_in_place_of_a_table(tmp_path: Path) -> None:
    for folder in (tmp_path / "parts", tmp_path / "parts.csv"):
        folder.mkdir()
        with pytest.raises(ManifestError, match="is a folder") as caught:
            open_source(SourceSpec(), folder)
        assert "omop, fhir, dicom" in caught.value.fix


def test_every_package_that_is_asked_for_belongs_to_an_extra_that_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    asked = {m[1] for f in (ROOT / "src").rglob("*.py") for m in re.finditer(r'\bneed\("[^"]+", "([^"]+)"', f.read_text(encoding="utf-8"))}
    assert len(asked) >= 4
    assert asked <= {*extras}
