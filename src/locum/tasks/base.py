"""The one protocol of a computation that visits the sites, and the registry that finds it by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from locum.data.rows import Rows
from locum.errors import ManifestError
from locum.study.document import Document, nearest
from locum.study.manifest import Step, Study
from locum.study.vector import Array, Contribution, Layout, Total

State = Mapping[str, Array]
"""The public, global state of a run: flat names -> arrays. A task's own entries are called '<step>.<name>'."""

Memory = MutableMapping[str, Array]
"""What one site keeps for itself between rounds of one step. It never leaves the site."""


@runtime_checkable
class Task(Protocol):
    """One computation that visits the sites; its answer is a function of the sum of what they release.

    A task is pure: the same state and rows give the same vector on any machine; randomness comes from `rng` alone.
    """

    kind: ClassVar[str]

    def reads(self) -> tuple[str, ...]:
        """The variables of the data contract that `visit` reads: what a data manager is asked to allow."""

    def leaves(self) -> str:
        """One plain sentence: what would leave the site."""

    def layout(self, state: State) -> Layout:
        """Names, shapes and dtypes of the vector: a function of public things only."""

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        """The site's addend. Raises `TaskError` where there is no answer."""

    def combine(self, state: State, total: Total) -> State:
        """The new global state from the sum alone. Raises `TaskError` where there is no answer."""

    def done(self, state: State) -> bool:
        """Whether the step needs no further round."""

    def result(self, state: State) -> dict[str, Any]:
        """The step's answer as plain JSON data, for the report."""


class Params(Document):
    """Base of a task's parameters in the manifest."""


P = TypeVar("P", bound=Params)
T = TypeVar("T", bound="type[BaseTask[Any]]")


class BaseTask(Generic[P]):
    """What every task shares: the step, its validated parameters, the study, and names in the state."""

    kind: ClassVar[str]
    Config: ClassVar[type[Any]]

    def __init__(self, step: Step, params: P, study: Study) -> None:
        self.step, self.params, self.study = step, params, study

    @classmethod
    def build(cls, step: Step, study: Study) -> Self:
        params = cls.Config.parse(step.params, where=f"plan step '{step.name}' ({step.task})")
        task = cls(step, params, study)
        task.require(*task.reads())
        return task

    def reads(self) -> tuple[str, ...]:
        raise NotImplementedError

    def require(self, *names: str) -> None:
        """Raise `ManifestError` unless every name is a variable of the study's data contract."""
        for name in names:
            if name not in self.study.data.variables:
                known = list(self.study.data.variables)
                raise ManifestError(f"Step '{self.step.name}' reads '{name}', which the data contract does not list.", fix=nearest(name, known))

    def key(self, name: str) -> str:
        """The state's name for this step's `name`."""
        return f"{self.step.name}.{name}"

    def own(self, state: State, name: str) -> NDArray[Any]:
        """This step's array `name` in the state."""
        return state[self.key(name)]

    def merge(self, state: State, **arrays: Any) -> State:
        """`state` with this step's arrays set."""
        return {**state, **{self.key(n): np.asarray(a) for n, a in arrays.items()}}


_EXACT: dict[str, Callable[[Step, Study], Any]] = {}
_PRIVATE: dict[str, Callable[[Step, Study], Any]] = {}


def register(cls: T) -> T:
    """Class decorator: make a task available under its `kind` to studies whose sums are exact."""
    _EXACT[cls.kind] = cls.build
    return cls


def register_private(cls: T) -> T:
    """Class decorator: make a task available under its `kind` to studies with differential privacy; see `tasks.private`."""
    _PRIVATE[cls.kind] = cls.build
    return cls


def kinds() -> list[str]:
    """The names of all tasks that a manifest may use."""
    return sorted({*_EXACT, *_PRIVATE})


def private_kinds() -> list[str]:
    """Those that have a form with differential privacy."""
    return sorted(_PRIVATE)


def build(step: Step, study: Study) -> Task:
    """The task that a manifest's step names, with validated parameters; raises `ManifestError`."""
    if step.task not in kinds():
        raise ManifestError(f"Step '{step.name}' asks for the task '{step.task}', which does not exist.", fix=nearest(step.task, kinds()))
    privacy = study.terms.privacy
    known = _PRIVATE if privacy.on else _EXACT
    if step.task not in known:
        raise ManifestError(
            f"Step '{step.name}': the task '{step.task}' has no form that protects each {privacy.unit} by noise.",
            why="One of them could change its answer without bound.",
            fix="leave the step out, or set privacy = 'none' under terms: then sums are exact, and each site has to accept that",
        )
    task: Task = known[step.task](step, study)
    return task


def build_plan(study: Study) -> list[Task]:
    """Every step of the study's plan as a task, in order; raises `ManifestError`."""
    return [build(step, study) for step in study.plan]
