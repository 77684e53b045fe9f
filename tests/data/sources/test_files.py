"""Recordings below a folder, and nothing outside it."""

import pytest

from locum.data.sources.files import files, identity
from locum.errors import DataError


def test_files_in_order_and_no_link_out_of_the_folder(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out.edf"
    (inside / "b").mkdir(parents=True)
    for path in (outside, inside / "b" / "1.EDF", inside / "a.edf", inside / "a.txt"):
        path.write_bytes(b"x")
    (inside / "linked.edf").symlink_to(outside)
    found = files(inside, (".edf",))
    assert [identity(p, inside) for p in found] == ["a", "b/1"]
    assert files(outside, (".edf",)) == [outside]
    with pytest.raises(DataError, match="holds no file that ends in"):
        files(inside, (".fit",))
