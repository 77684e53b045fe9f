"""One run as a self-contained HTML page: no script, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from locum.report.figures import figures_of_step

_ENV = Environment(loader=PackageLoader("locum.report", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def environment() -> Environment:
    """The templates of this package, which escape everything."""
    return _ENV


def page(
    *,
    study: Mapping[str, Any],
    run: Mapping[str, Any],
    rounds: Sequence[Mapping[str, Any]],
    comparison: Mapping[str, Any] | None = None,
    card: Mapping[str, Any] | None = None,
) -> str:
    """HTML of one run.

    study: the manifest as plain data. run, rounds: `RunView` and `RoundView`s as plain data. comparison: what the
    demonstration knows because its data are public: {"coefficients": rows, "concordance": rows}. card: `card_of` the run.
    """
    rows_of = {name: result["coefficients"] for name, result in run["results"].items() if isinstance(result, dict) and result.get("coefficients")}
    shown = {name: {k: v for k, v in result.items() if k != "coefficients"} for name, result in run["results"].items() if isinstance(result, dict)}
    return _ENV.get_template("run.html").render(
        study=study,
        run=run,
        rounds=rounds,
        card=card,
        comparison=comparison or {},
        tables={name: columns(rows) for name, rows in rows_of.items()},
        shown={name: _flat(result) for name, result in shown.items()},
        figures={name: list(figures_of_step(name, result, study).values()) for name, result in run["results"].items()},
        bars=bars(rounds),
        seconds=(run["ended"] or 0) - (run["started"] or 0),
        bytes_in=sum(r["bytes_in"] for r in rounds),
        bytes_out=sum(r["bytes_out"] for r in rounds),
        bytes_per_number=sum(r["vector_bytes"] for r in rounds) / max(1, sum(r["scalars"] for r in rounds)),
    )


COLUMNS = {"coef": ("coefficient", "{:.6f}"), "se": ("SE", "{:.6f}"), "z": ("z", "{:.3f}"), "t": ("t", "{:.3f}"), "p": ("p", "{:.4g}")}
COLUMNS["privacy_share"] = ("variance from noise", "{:.0%}")


def columns(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The heads of what a model says of its coefficients, and the cells of each."""
    keys = [k for k in COLUMNS if k in rows[0]]
    return [COLUMNS[k][0] for k in keys], [(r["name"], ["" if r[k] is None else COLUMNS[k][1].format(r[k]) for k in keys]) for r in rows]


def bars(rounds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Seconds of every round as bars, heights 0..80 pixels."""
    seconds = [(r["closed"] or r["opened"]) - r["opened"] for r in rounds]
    top = max(seconds, default=1.0) or 1.0
    return [
        {"height": round(80 * s / top, 1), "title": f"{r['step']} {r['iteration'] + 1}: {s:.2f} s", "status": r["status"]}
        for r, s in zip(rounds, seconds, strict=True)
    ]


def _flat(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A result's short entries as text; long lists are left to the JSON file."""
    out = []
    for key, value in result.items():
        if isinstance(value, float):
            out.append((key, f"{value:.6g}"))
        elif isinstance(value, str | int | bool) or value is None:
            out.append((key, str(value)))
        elif isinstance(value, Mapping) and len(value) <= 12 and all(not isinstance(v, dict | list) for v in value.values()):
            out.append((key, ", ".join(f"{k} {v:.6g}" if isinstance(v, float) else f"{k} {v}" for k, v in value.items())))
        elif isinstance(value, list) and 0 < len(value) <= 6 and all(isinstance(v, str | int | float) for v in value):
            out.append((key, ", ".join(f"{v:.6g}" if isinstance(v, float) else str(v) for v in value)))
    return out
