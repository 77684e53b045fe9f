"""Files as hospitals export them: byte order marks, semicolons, old encodings, damage."""

import polars as pl
import pytest

from locum.data import SourceSpec, open_source
from locum.data import sources as module
from locum.errors import DataError, ManifestError, TooLarge


def written(tmp_path, raw, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize(
    ("raw", "spec"),
    [
        (b"id,name\n1,Zo\xc3\xab\n", {}),
        (b"\xef\xbb\xbfid,name\n1,Zo\xc3\xab\n", {}),
        (b"\xef\xbb\xbfid,name\n1,Zo\xc3\xab\n", {"encoding": "UTF-8-SIG"}),
        (b"id;name\r\n1;Zo\xc3\xab\r\n", {}),
        (b"id\tname\n1\tZo\xc3\xab\n", {}),
        (b"id|name\n1|Zo\xc3\xab\n", {"separator": "|"}),
        (b'"id","name"\n"1","Zo\xc3\xab"\n\n\n', {}),
        (b"id,name\n1,Zo\xeb\n", {"encoding": "latin-1"}),
        ("id;name\n1;Zoë\n".encode("utf-16"), {"encoding": "utf-16"}),
    ],
)
def test_one_table_in_many_dialects(tmp_path, raw, spec):
    source = open_source(SourceSpec(**spec), written(tmp_path, raw))
    assert source.columns() == ["id", "name"]
    assert source.read(["name", "id"]).rows() == [("Zoë", "1")]


def test_a_separator_inside_a_quoted_header_does_not_count(tmp_path):
    source = open_source(SourceSpec(), written(tmp_path, b'"carcinoma, NOS, left, right";b\n1;2\n'))
    assert source.columns() == ["carcinoma, NOS, left, right", "b"]


def test_csv_cells_stay_text(tmp_path):
    """An identifier keeps its leading zeros."""
    assert open_source(SourceSpec(), written(tmp_path, b"id,x\n007,1e3\n")).read(["id", "x"]).rows() == [("007", "1e3")]


def test_parquet_reads_only_what_is_asked(tmp_path):
    path = tmp_path / "t.parquet"
    pl.DataFrame({"a": [1, 2], "b": ["x", None]}).write_parquet(path)
    source = open_source(SourceSpec(), path)
    assert source.columns() == ["a", "b"]
    assert source.read(["b"]).to_dict(as_series=False) == {"b": ["x", None]}


@pytest.mark.parametrize(
    ("raw", "name", "says", "fix"),
    [
        (b"", "t.csv", "is empty", "header line"),
        (b"id,name\n1,Zo\xeb\n", "t.csv", "UTF-8", "latin-1"),
        (b"a,b\n1,2,3\n", "t.csv", "cannot be read", "stray quote"),
        (b'a,b\n1,"secret\n', "t.csv", "cannot be read", "stray quote"),
        (b"a,b,a\n1,2,3\n", "t.csv", "more than one column 'a'", "own name"),
        (b"PAR1 and then nothing", "t.parquet", "cannot be read", "export it again"),
        (b"", "t.parquet", "cannot be read", "export it again"),
    ],
)
def test_bad_files_are_explained_without_their_content(tmp_path, raw, name, says, fix):
    source = open_source(SourceSpec(), written(tmp_path, raw, name))
    with pytest.raises(DataError) as caught:
        source.read(source.columns()[:1])
    assert says in caught.value.what
    assert fix in caught.value.fix
    assert "secret" not in str(caught.value)


def test_a_truncated_parquet_file(tmp_path):
    path = tmp_path / "t.parquet"
    pl.DataFrame({"a": range(10_000)}).write_parquet(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="cannot be read"):
        open_source(SourceSpec(), path).columns()


def test_wrong_declared_encoding_is_named(tmp_path):
    with pytest.raises(DataError) as caught:
        open_source(SourceSpec(encoding="utf-16"), written(tmp_path, b"a,b\n1,2\n")).columns()
    assert "encoding" in str(caught.value)


def test_missing_file_unknown_kind_and_no_file(tmp_path):
    with pytest.raises(DataError, match="There is no file"):
        open_source(SourceSpec(), tmp_path / "absent.csv")
    with pytest.raises(ManifestError, match="What kind of file"):
        open_source(SourceSpec(), written(tmp_path, b"x", "t.sav"))
    with pytest.raises(ManifestError, match="No data file is named"):
        open_source(SourceSpec())


def test_sizes_are_bounded(tmp_path, monkeypatch):
    path = written(tmp_path, b"a,b\n" + b"1,2\n" * 11)
    monkeypatch.setattr(module, "MAX_CELLS", 20)
    with pytest.raises(TooLarge, match="more than 10 rows"):
        open_source(SourceSpec(), path).read(["a", "b"])
    assert len(open_source(SourceSpec(), path).read(["a"])) == 11
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 10)
    with pytest.raises(TooLarge):
        open_source(SourceSpec(), path)


def test_unknown_encoding_is_a_manifest_error():
    with pytest.raises(ManifestError, match="no such text encoding"):
        SourceSpec.parse({"encoding": "ebcdic-9"})
