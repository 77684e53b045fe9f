"""What a task sees of a hospital: canonical columns as arrays, one entry per row, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from locum.data.patients import is_test
from locum.study.manifest import Split

Part = Literal["all", "train", "test"]


@dataclass(frozen=True)
class Rows:
    """Rows that met the data contract.

    columns: canonical name -> float64 array of length n. A missing value is NaN; a boolean is 0 or 1; a category is
    its index in the contract's `categories`; a date is in days since 1970-01-01. patient: a pseudonym per row that never leaves the
    site (default: the row number), used to keep all of a patient's rows together. arrays: name -> float32 (n, *shape), or what stands for
    one and gives some of its columns at a time (`locum.data.genotypes.Genotypes`). texts:
    name -> text, '' where it is missing. test: which rows are of test patients, where that was decided when the rows were read.
    """

    columns: Mapping[str, NDArray[np.float64]]
    patient: NDArray[np.str_]
    arrays: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    texts: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)
    test: NDArray[np.bool_] | None = None

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
        columns, arrays, texts = ({name: a[index] for name, a in d.items()} for d in (self.columns, self.arrays, self.texts))
        taken = Rows(columns, self.patient[index], arrays, texts, None if self.test is None else self.test[index])
        if "_distinct" in self.__dict__:  # numbers sort faster than names
            names, codes = self._distinct
            kept, fresh = np.unique(codes[index], return_inverse=True)
            taken.__dict__["_distinct"] = names[kept], fresh.astype(np.int64).reshape(-1)
        return taken

    def matrix(self, names: Sequence[str]) -> NDArray[np.float64]:
        """The named columns side by side, shape (n, len(names))."""
        return np.column_stack([self.columns[n] for n in names]) if names else np.empty((len(self), 0))

    def part(self, part: Part, split: Split) -> Rows:
        """The training or the test patients: as it was decided at reading, else by a hash of salt and patient."""
        if part == "all":
            return self
        test = self.test if self.test is not None else is_test(self.distinct, split)[self.codes]
        return self.take(test if part == "test" else ~test)
