"""Files that people write: strict, and helpful about a wrong key."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from locum.errors import ManifestError

MAX_DOCUMENT_BYTES = 1 << 20
MOST_KNOWN = 40
"""Words that a message lists: a table may have thousands of columns."""
MAX_QUOTED = 400
"""Characters of a key or of one problem in a message."""


class Document(BaseModel):
    """A pydantic model that forbids unknown keys, is immutable, and raises `ManifestError` with a remedy."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, value: Any, *, where: str = "") -> Self:
        """Validate plain Python data; `where` names the file or section for the error message."""
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise explain(error, cls, where or cls.__name__.lower()) from None


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as plain data, bounded in size; raises `ManifestError`."""
    try:
        if path.exists() and not path.is_file():  # a pipe or a device may never end
            raise ManifestError(f"{path} is no file.", fix="name a text file")
        with path.open("rb") as file:
            raw = file.read(MAX_DOCUMENT_BYTES + 1)
        if len(raw) > MAX_DOCUMENT_BYTES:
            raise ManifestError(f"{path.name} is larger than {MAX_DOCUMENT_BYTES >> 20} MiB.", fix="it should be a short text file")
        return tomllib.loads(raw.decode().replace("\r\n", "\n"))
    except FileNotFoundError:
        raise ManifestError(f"There is no file {path}.", fix="check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path.name} is not valid TOML: {error}.", fix="correct that line") from None
    except (ValueError, RecursionError):  # a number of thousands of digits, brackets within brackets
        raise ManifestError(f"{path.name} holds a value that nobody can mean.", fix="look for a huge number, or brackets within brackets") from None
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror}.") from None


_FILES = {
    "study": ("a study", "give it without --contract or --mapping: locum data check {file}"),
    "contract": ("a data contract", "give it with --contract: locum data check --contract {file}"),
    "mapping": ("a site's mapping", "give it with --mapping: locum data check study.toml --mapping {file}"),
}


def expect(kind: str, value: dict[str, Any], path: Path) -> dict[str, Any]:
    """The content of a file that should be a 'study', a 'contract' or a 'mapping'. Raises `ManifestError` where it is another one of them."""
    schema = str(value.get("schema", "")).split("/")
    marks = {"study": ("plan",), "contract": ("variables",), "mapping": ("columns", "source")}
    found = schema[1] if schema[0] == "locum" and len(schema) > 1 else next((k for k, keys in marks.items() if any(key in value for key in keys)), kind)
    if found != kind and found in _FILES:
        raise ManifestError(f"{path.name} is {_FILES[found][0]}, not {_FILES[kind][0]}.", fix=_FILES[found][1].format(file=path))
    return value


def nearest(word: str, known: list[str]) -> str:
    """A sentence that names the closest known word, or lists the known ones."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    more = f" and {len(known) - MOST_KNOWN:,} more" if len(known) > MOST_KNOWN else ""
    return f"known here: {', '.join(sorted(known)[:MOST_KNOWN])}{more}"


def explain(error: ValidationError, model: type[BaseModel], where: str) -> ManifestError:
    """The first few problems of a pydantic error in words, with the nearest valid key for an unknown one."""
    problems, fixes = [], []
    for item in error.errors(include_url=False, include_input=False)[:5]:
        place = _short(".".join(str(part) for part in item["loc"]))
        if item["type"] == "extra_forbidden":
            problems.append(f"unknown key '{place}'")
            fixes.append(nearest(_short(str(item["loc"][-1])), _keys(model, item["loc"][:-1])))
        elif item["type"] == "missing":
            problems.append(f"'{place}' is missing")
        else:
            message = _short(item["msg"].removeprefix("Value error, "))
            problems.append(f"'{place}': {message[0].lower()}{message[1:]}" if place else message)
    more = len(error.errors(include_url=False)) - 5
    text = "; ".join(problems) + (f"; and {more} more" if more > 0 else "")
    return ManifestError(f"{where}: {text}.", fix="; ".join(dict.fromkeys(fixes)))


def _short(text: str) -> str:
    """So much of it as a message may quote: keys and values may be a peer's, and of any length."""
    return text if len(text) <= MAX_QUOTED else text[:MAX_QUOTED] + "..."


def _keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The keys valid at `path` below `model`, following nested models, lists and dicts of models."""
    here: Any = model
    for part in path:
        if isinstance(here, type) and issubclass(here, BaseModel):
            fields = here.model_fields
            name = next((n for n, f in fields.items() if part in (n, f.alias)), None)
            here = fields[name].annotation if name else here  # a key of a dict of models: stay at the model
        models = [a for a in _flatten(here) if isinstance(a, type) and issubclass(a, BaseModel)]
        here = models[0] if models else here
    if isinstance(here, type) and issubclass(here, BaseModel):
        return [f.alias or n for n, f in here.model_fields.items()]
    return []


def _flatten(annotation: Any) -> list[Any]:
    args = getattr(annotation, "__args__", ())
    return [annotation] + [leaf for a in args for leaf in _flatten(a)]
