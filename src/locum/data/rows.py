"""What a task sees of a hospital: canonical columns as arrays, one entry per row, and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from locum.study.manifest import Split

Part = Literal["all", "train", "test"]


@dataclass(frozen=True)
class Rows:
    """Rows that met the data contract.

    columns: canonical name -> float64 array of length n. A missing value is NaN; a boolean is 0 or 1; a category is
    its index in the contract's `categories`. patient: an identifier per row that never leaves the site (default: the
    row number), used to keep all of a patient's rows together.
    """

    columns: Mapping[str, NDArray[np.float64]]
    patient: NDArray[np.str_]

    @classmethod
    def of(cls, columns: Mapping[str, Sequence[float] | NDArray[np.generic]], patient: Sequence[object] | None = None) -> Rows:
        """Rows from plain sequences; without `patient` every row is a patient of its own."""
        arrays = {name: np.asarray(values, dtype=np.float64) for name, values in columns.items()}
        n = len(next(iter(arrays.values()))) if arrays else 0
        return cls(arrays, np.asarray([str(p) for p in patient] if patient is not None else [str(i) for i in range(n)], dtype=np.str_))

    def __len__(self) -> int:
        return len(self.patient)

    @cached_property
    def patients(self) -> int:
        """Number of distinct patients."""
        return len(self.distinct)

    @property
    def distinct(self) -> NDArray[np.str_]:
        """The distinct patients, sorted."""
        return self._distinct[0]

    @property
    def codes(self) -> NDArray[np.int64]:
        """Which patient each row is of, as a number from 0 to patients - 1, shape (n,)."""
        return self._distinct[1]

    @cached_property
    def _distinct(self) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
        names, codes = np.unique(self.patient, return_inverse=True)
        return names, codes.astype(np.int64).reshape(-1)

    def take(self, index: NDArray[np.generic]) -> Rows:
        """The rows that `index` (a mask or positions) selects."""
        taken = Rows({name: a[index] for name, a in self.columns.items()}, self.patient[index])
        if "_distinct" in self.__dict__:  # numbers sort faster than names
            names, codes = self._distinct
            kept, fresh = np.unique(codes[index], return_inverse=True)
            taken.__dict__["_distinct"] = names[kept], fresh.astype(np.int64).reshape(-1)
        return taken

    def matrix(self, names: Sequence[str]) -> NDArray[np.float64]:
        """The named columns side by side, shape (n, len(names))."""
        return np.column_stack([self.columns[n] for n in names]) if names else np.empty((len(self), 0))

    def part(self, part: Part, split: Split) -> Rows:
        """The training or the test patients: by a hash of salt and patient id, so that any machine splits alike."""
        if part == "all":
            return self
        test = np.array([_uniform(split.salt, p) < split.test_share for p in self.patient], dtype=bool)
        return self.take(test if part == "test" else ~test)


def _uniform(salt: str, patient: str) -> float:
    digest = hashlib.sha256(f"locum/split/1\0{salt}\0{patient}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2.0**56
