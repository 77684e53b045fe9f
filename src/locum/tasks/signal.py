"""Features of signals, made at the site: a wave or a window of motion becomes a few numbers that any later step can use.

Every signal x_1 ... x_t of a row, one per channel, becomes the numbers of the named groups:

    mean, sd, range        mean, log(sd + floor), log(max - min + floor)
    quantiles              the 5, 25, 50, 75 and 95 % quantile
    roughness, crossings   log(mean |x_i+1 - x_i| + floor); the share of neighbours on different sides of the mean
    bands                  log(power in [low, high) Hz + floor^2), from the discrete Fourier transform of x - mean
    correlations           between each two channels: cov / (sd sd + floor^2)
    shape                  (x - median) / (range + floor) in `points` blocks, each its mean: the form without the size
    convolutions           of this form with `kernels` random kernels: the share of positive outputs, and the largest (ROCKET: Dempster,
                           Petitjean and Webb (2020), Data Mining and Knowledge Discovery 34:1454, section 3.1, of fixed length 9)

The kernels are drawn from `seed` alone, so they are public and the same everywhere. A constant signal has sd = range = 0, which the floor
makes a finite number. A row whose signal holds a value that is missing or infinite has no features: later steps leave it out, and count it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from functools import cached_property
from itertools import combinations
from math import log
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.study.manifest import Step, Study, Variable, VariableName
from locum.study.vector import Contribution, Layout, Total
from locum.tasks.base import Memory, Params, State, Transform, register
from locum.tasks.prepare import with_columns

Floats = NDArray[np.float64]
Limits = tuple[float | None, float | None]
Group = Literal["mean", "sd", "range", "quantiles", "roughness", "crossings", "bands", "correlations", "shape", "convolutions"]
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
LENGTH = 9
"""Of a kernel."""
BIAS = 0.1
"""At most; a kernel's outputs lie within [-1, 1] of the form."""
MOST = 2048
"""Features of one step."""
BLOCK = 4096
"""Rows that are worked on at a time: the arrays between stay in the cache."""


class SignalParams(Params):
    """signals: variables of type array, of shape (t,) or (channels, t). features: groups of the module's table, in this order. rate: samples per
    second. bands: their edges in Hz, each [low, high). points: of the shape. kernels, seed: of the convolutions. floor: in the signal's unit,
    what is added before a logarithm: smaller differences are noise. logs: numbers, such as intervals, whose log(x + log_floor) is made too.
    """

    signals: Annotated[tuple[VariableName, ...], Field(min_length=1, max_length=16)]
    features: Annotated[tuple[Group, ...], Field(min_length=1)] = ("mean", "sd", "roughness", "crossings")
    rate: Annotated[float, Field(gt=0)] = 1.0
    bands: Annotated[tuple[tuple[float, float], ...], Field(max_length=64)] = ()
    points: Annotated[int, Field(ge=2, le=MOST)] = 16
    kernels: Annotated[int, Field(ge=1, le=MOST // 2)] = 32
    seed: Annotated[int, Field(ge=0, lt=2**53)] = 0
    floor: Annotated[float, Field(gt=0)] = 1e-3
    logs: Annotated[tuple[VariableName, ...], Field(max_length=64)] = ()
    log_floor: Annotated[float, Field(gt=0)] = 1e-3

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if ("bands" in self.features) != bool(self.bands):
            raise ValueError("bands are listed with the feature 'bands', and only with it: bands = [[0.5, 4], [4, 20]] in Hz")
        wrong = [b for b in self.bands if not 0 <= b[0] < b[1]]
        if wrong:
            raise ValueError(f"a band is [low, high) in Hz, with low below high; {list(wrong[0])} is none")
        for name, of in (("signals", self.signals), ("features", self.features), ("logs", self.logs)):
            if len(set(of)) < len(of):
                raise ValueError(f"{name} names something twice")
        return self


@register
class SignalFeatures(Transform[SignalParams]):
    """One round, which counts the rows that have no features; from then on every row has them as columns named '<signal>_<feature>'."""

    kind = "signal_features"
    Config = SignalParams
    row_wise = True
    takes = ("array", "number", "integer")

    def __init__(self, step: Step, params: SignalParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.require(*self.reads())
        for name in self.reads():
            self._check(name, study.data.variables[name])
        taken = [n for n in self.names if n in study.data.variables]
        if taken:
            raise ManifestError(f"Step '{step.name}' would make '{taken[0]}', which is there already.", fix="rename the variable in the data contract")
        if len(self.names) > MOST:
            raise ManifestError(f"Step '{step.name}' makes {len(self.names)} features; at most {MOST}.", fix="ask for fewer points, kernels or bands")

    def _check(self, name: str, variable: Variable) -> None:
        p, where = self.params, f"Step '{self.step.name}': '{name}'"
        if (variable.type == "array") != (name in p.signals):
            raise ManifestError(f"{where} is of type '{variable.type}'.", fix="list arrays under signals, and numbers under logs")
        if name in p.logs:
            if variable.minimum is None or variable.minimum < 0:
                raise ManifestError(f"{where} may be negative, and then has no logarithm.", fix="declare its minimum, at least 0, in the data contract")
            return
        if len(variable.shape) > 2 or variable.shape[-1] < 4:
            raise ManifestError(f"{where} has the shape {list(variable.shape)}.", fix="a signal is (t,) or (channels, t), with t of at least 4")
        t = variable.shape[-1]
        empty = [b for b in p.bands if not self._bins(t, b).any()]
        if empty:
            fix = f"use edges in steps of {p.rate / t:g} up to {p.rate / 2:g} Hz, and check rate"
            raise ManifestError(f"{where}: no frequency of {t} samples at {p.rate:g} Hz lies in the band {list(empty[0])}.", fix=fix)
        if ("shape" in p.features and p.points > t) or ("convolutions" in p.features and t < LENGTH):
            raise ManifestError(f"{where} has {t} samples: too few.", fix=f"ask for at most {t} points; convolutions need {LENGTH} samples")

    def _bins(self, t: int, band: tuple[float, float]) -> NDArray[np.bool_]:
        """The frequencies of t samples in a band, without the constant. Shape (t // 2 + 1,)."""
        hz = np.fft.rfftfreq(t, 1.0 / self.params.rate)
        return np.asarray((hz >= band[0]) & (hz < band[1]) & (hz > 0))

    def reads(self) -> tuple[str, ...]:
        return (*self.params.signals, *self.params.logs)

    def leaves(self) -> str:
        return "How many rows have a complete signal, and how many do not: two counts. The features that are made of the signals stay."

    def layout(self, state: State) -> Layout:
        return Layout.of(complete=(), left_out=())

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        good = self.complete(rows)
        return Contribution({"complete": np.asarray(float(good.sum())), "left_out": np.asarray(float((~good).sum()))}, rows.patients, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        if total["complete"] == 0:
            raise TaskError(f"No row of the cohort has a complete signal for step '{self.step.name}'.", fix="look for missing samples at their source")
        return self.merge(state, complete=total["complete"], left_out=total["left_out"])

    def done(self, state: State) -> bool:
        return self.key("complete") in state

    def result(self, state: State) -> dict[str, Any]:
        return {"rows": int(self.own(state, "complete")), "left_out": int(self.own(state, "left_out")), "features": len(self.names), "names": list(self.names)}

    def complete(self, rows: Rows) -> NDArray[np.bool_]:
        """The rows all of whose signals hold only finite numbers, shape (n,)."""
        good = np.ones(len(rows), dtype=bool)
        for name in self.reads():
            if name not in (rows.arrays if name in self.params.signals else rows.columns):
                raise TaskError(f"Step '{self.step.name}' reads '{name}', which this site's rows do not have.", fix="map that variable, or leave the study")
        for name in self.params.signals:
            shape, found = self.study.data.variables[name].shape, rows.arrays[name]
            if found.shape[1:] != shape:
                what = f"'{name}' is not an array of shape {list(shape)} in this site's rows: theirs is {list(found.shape[1:])}."
                raise TaskError(what, fix="map it, and cut the signal to that shape where it is read")
            good &= np.isfinite(found).all(axis=tuple(range(1, found.ndim)))
        return good

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of everything that is made, in order."""
        made = [f"{name}_{feature}" for name in self.params.signals for feature, _ in self._described(self.study.data.variables[name])]
        return (*made, *(f"log_{name}" for name in self.params.logs))

    def derived(self) -> dict[str, Variable]:
        contract, f = self.study.data.variables, self.params.log_floor
        limits = [limit for name in self.params.signals for _, limit in self._described(contract[name])]
        for v in (contract[name] for name in self.params.logs):
            limits.append((log((v.minimum or 0.0) + f), None if v.maximum is None else log(v.maximum + f)))
        return {name: Variable(minimum=low, maximum=high) for name, (low, high) in zip(self.names, limits, strict=True)}

    def apply(self, state: State, rows: Rows) -> Rows:
        good, made = self.complete(rows), []
        for name in self.params.signals:
            shape = self.study.data.variables[name].shape
            x = rows.arrays[name].reshape(len(rows), math.prod(shape[:-1]), shape[-1])
            width = len(self._described(self.study.data.variables[name]))
            out = np.full((len(rows), width), np.nan)
            for start in range(0, len(rows), BLOCK):
                block = slice(start, start + BLOCK)
                out[block][good[block]] = self.features(x[block][good[block]].astype(np.float64))
            made.append(out)
        logs = [np.log(np.maximum(rows.columns[name], 0.0) + self.params.log_floor)[:, None] for name in self.params.logs]
        return with_columns(rows, dict(zip(self.names, np.ascontiguousarray(np.hstack([*made, *logs]).T), strict=True)))

    def _described(self, variable: Variable) -> list[tuple[str, Limits]]:
        """Name and limits of every feature of one signal, in the order of `features`: as far as the contract says what the signal may be."""
        p, channels = self.params, variable.shape[0] if len(variable.shape) > 1 else 1
        low, high = variable.minimum, variable.maximum
        span = None if low is None or high is None else high - low
        size = (log(p.floor), None if span is None else log(span + p.floor))
        power = (2.0 * log(p.floor), None if span is None else log(span**2 + p.floor**2))
        inner: dict[str, list[tuple[str, Limits]]] = {
            "mean": [("mean", (low, high))],
            "sd": [("sd", size)],
            "range": [("range", size)],
            "quantiles": [(f"q{round(100 * q):02d}", (low, high)) for q in QUANTILES],
            "roughness": [("rough", size)],
            "crossings": [("cross", (0.0, 1.0))],
            "bands": [(f"band{k + 1}", power) for k in range(len(p.bands))],
            "shape": [(f"p{k + 1:02d}", (-1.0, 1.0)) for k in range(p.points)],
            "convolutions": [made for k in range(p.kernels) for made in ((f"k{k + 1:02d}share", (0.0, 1.0)), (f"k{k + 1:02d}max", (-1.0 - BIAS, 1.0 + BIAS)))],
        }
        out: list[tuple[str, Limits]] = []
        for group in p.features:
            if group == "correlations":
                out += [(f"c{i + 1}c{j + 1}_corr", (-1.0, 1.0)) for i, j in combinations(range(channels), 2)]
                continue
            out += [(f"c{c + 1}_{n}" if channels > 1 else n, limit) for c in range(channels) for n, limit in inner[group]]
        return out

    def features(self, x: Floats) -> Floats:
        """Of complete signals x (n, channels, t): shape (n, features), as `_described` names them."""
        return np.concatenate([group.reshape(len(x), -1) for group in self._groups(x)], axis=1)

    def _groups(self, x: Floats) -> Iterator[Floats]:
        """Each (n, channels, features), or the correlations (n, pairs)."""
        p, n, t = self.params, len(x), x.shape[2]
        mean, sd, reach = x.mean(axis=2), x.std(axis=2), np.ptp(x, axis=2)
        centred = x - mean[:, :, None]
        form = (x - np.median(x, axis=2)[:, :, None]) / (reach + p.floor)[:, :, None] if {"shape", "convolutions"} & {*p.features} else x
        for group in p.features:
            if group == "mean":
                yield mean
            elif group == "sd":
                yield np.log(sd + p.floor)
            elif group == "range":
                yield np.log(reach + p.floor)
            elif group == "quantiles":
                yield np.moveaxis(np.quantile(x, QUANTILES, axis=2), 0, 2)
            elif group == "roughness":
                yield np.log(np.abs(np.diff(x, axis=2)).mean(axis=2) + p.floor)
            elif group == "crossings":
                yield ((centred[:, :, 1:] > 0) != (centred[:, :, :-1] > 0)).mean(axis=2)
            elif group == "bands":
                power = 2.0 * np.abs(np.fft.rfft(centred, axis=2)) ** 2 / t**2
                if t % 2 == 0:
                    power[:, :, -1] /= 2.0  # the highest frequency has no twin
                yield np.log(np.stack([power[:, :, self._bins(t, b)].sum(axis=2) for b in p.bands], axis=2) + p.floor**2)
            elif group == "correlations":
                both = [(i, j) for i, j in combinations(range(x.shape[1]), 2)]
                made = [(centred[:, i] * centred[:, j]).mean(axis=1) / (sd[:, i] * sd[:, j] + p.floor**2) for i, j in both]
                yield np.stack(made, axis=1) if made else np.empty((n, 0))
            elif group == "shape":
                edges = np.linspace(0, t, p.points + 1).round().astype(np.int64)
                yield np.add.reduceat(form, edges[:-1], axis=2) / np.diff(edges)
            else:
                yield self._convolved(form)

    def _convolved(self, form: Floats) -> Floats:
        """The share of positive outputs and the largest output of every kernel, shape (n, channels, 2 kernels)."""
        t, out = form.shape[2], np.empty((*form.shape[:2], self.params.kernels, 2))
        rng = np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(f"locum/kernels/1\0{self.params.seed}".encode()).digest(), "big")))
        for k in range(self.params.kernels):
            w = rng.standard_normal(LENGTH)
            w = (w - w.mean()) / np.abs(w - w.mean()).sum()
            bias, step = rng.uniform(-BIAS, BIAS), 1 << int(rng.integers(0, max(1, int(np.log2((t - 1) / (LENGTH - 1))) + 1)))
            here = sum(w[i] * form[:, :, i * step : t - (LENGTH - 1 - i) * step] for i in range(LENGTH)) + bias
            out[:, :, k, 0], out[:, :, k, 1] = (here > 0).mean(axis=2), here.max(axis=2)
        return out.reshape(*form.shape[:2], -1)
