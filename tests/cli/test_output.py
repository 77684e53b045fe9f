"""What is printed of other people's text: as it is, and without power over the terminal."""

import pytest

from locum.cli.output import coloured, console, fail, table
from locum.errors import DataError, agree, counted

HOSTILE = "\x1b[2J\x1b]0;title\x07a\x9b31mb\u202ec"


def test_brackets_in_cells_and_titles_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    table(["unit", "column"], [("[lb_av]", "[red]x"), ("[/]", "[link=http://a]y")], title="of [bold]them")
    out = capsys.readouterr().out
    for text in ("[lb_av]", "[red]x", "[/]", "[link=http://a]y", "of [bold]them"):
        assert text in out


def test_a_coloured_cell_is_literal_too(capsys: pytest.CaptureFixture[str]) -> None:
    table(["how sure"], [(coloured("[sure]", "green"),)])
    assert "[sure]" in capsys.readouterr().out


def test_escape_sequences_and_turned_text_are_shown_and_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    table(["column"], [(HOSTILE,)], title=HOSTILE)
    console().print(HOSTILE, markup=False)
    with pytest.raises(SystemExit):
        fail(DataError(HOSTILE, why=HOSTILE, fix=HOSTILE, local=HOSTILE), as_json=False)
    with pytest.raises(SystemExit):
        fail(DataError(HOSTILE), as_json=True)
    for text in capsys.readouterr():
        assert not {*text} & {"\x1b", "\x07", "\x9b", "\u202e"}


@pytest.mark.parametrize(("n", "says"), [(0, "0 rows are"), (1, "1 row is"), (2, "2 rows are"), (1000, "1,000 rows are")])
def test_numbers_and_their_words(n: int, says: str) -> None:
    assert f"{counted(n, 'row')} {agree(n, 'is', 'are')}" == says
    assert counted(n, "series", "series").endswith(" series")
