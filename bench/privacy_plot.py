"""Accuracy against eps, from what `python -m bench privacy --json FILE` wrote: `python -m bench.privacy_plot FILE OUT.svg`."""

import json
import re
import sys
from pathlib import Path

PANELS = {
    "breast_auc": ("Breast cancer, 4 silos: AUC", "delta 1e-5"),
    "heart_acc": ("Heart disease, 4 hospitals: mean accuracy", "delta 1e-4"),
    "ist_auc": ("Stroke outcome, 466 hospitals: AUC", "delta 1e-6"),
}
LINES = {
    "": ("distributed noise, under masks", "#245", "o-"),
    "_central": ("central noise: the ceiling", "#2a7", "s--"),
    "_local": ("each site's own noise", "#a33", "^:"),
}


def main(source: Path, target: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "locum"
    import matplotlib.pyplot as plt

    rows = {r["metric"]: r for r in json.loads(source.read_text())["rows"]}
    figure, axes = plt.subplots(1, len(PANELS), figsize=(13, 4))
    for axis, (name, (title, delta)) in zip(axes, PANELS.items(), strict=True):
        found = [re.fullmatch(rf"{name}_eps(\d+(?:_\d+)?)", metric) for metric in rows]
        levels = sorted((float(m.group(1).replace("_", ".")), m.group(1)) for m in found if m)
        for suffix, (label, colour, style) in LINES.items():
            points = [(eps, rows[f"{name}_eps{text}{suffix}"]) for eps, text in levels]
            ends = [[float(x) for x in re.search(r"interval ([\d.]+) to ([\d.]+)", r["note"]).groups()] for _, r in points]  # type: ignore[union-attr]
            values = [r["value"] for _, r in points]
            errors = [[v - low for v, (low, _) in zip(values, ends, strict=True)], [high - v for v, (_, high) in zip(values, ends, strict=True)]]
            axis.errorbar([eps for eps, _ in points], values, yerr=errors, fmt=style, color=colour, label=label, capsize=3)
        axis.axhline(rows[f"{name}_exact"]["value"], color="#888", linewidth=1, label="without noise")
        axis.set_xscale("log")
        axis.set_xticks([eps for eps, _ in levels], [f"{eps:g}" for eps, _ in levels])
        axis.minorticks_off()
        axis.set_xlabel(f"eps ({delta}), for each patient")
        axis.set_title(title, fontsize=10)
    axes[0].legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
