"""The one protocol of a computation that visits the sites, and the registry that finds it by name.

Some steps change the rows that all later ones see (`Transform`). What they derive is known from the plan alone, so each task is
built with the study as its own step sees it.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from functools import cached_property
from itertools import takewhile
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import PrivateAttr

from locum.data.rows import Rows
from locum.errors import ManifestError
from locum.study.document import Document, nearest
from locum.study.manifest import Step, Study, Variable
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
    """What every task shares: the step, its validated parameters, the study as the step sees it, and names in the state.

    takes: the types of variable that it can read. within: where it is a part of another task's step, the part's name and ':'.
    """

    kind: ClassVar[str]
    Config: ClassVar[type[Any]]
    takes: ClassVar[tuple[str, ...]] = ("number", "integer", "boolean", "category", "date")
    within: str = ""

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
        """Raise `ManifestError` unless every name is a variable of the data contract, or derived by an earlier step, of a type that fits."""
        for name in names:
            if name not in self.study.data.variables:
                known = list(self.study.data.variables)
                raise ManifestError(f"Step '{self.step.name}' reads '{name}', which the data contract does not list.", fix=nearest(name, known))
            found = self.study.data.variables[name].type
            if found not in self.takes:
                raise ManifestError(f"Step '{self.step.name}': '{name}' is of type '{found}', which '{self.kind}' cannot read.", fix="leave it out")

    @cached_property
    def transforms(self) -> tuple[Transform[Any], ...]:
        """The earlier steps of the plan that change the rows which this step sees, in order."""
        return _before(self.step, self.study)[0]

    def key(self, name: str) -> str:
        """The state's name for this step's `name`."""
        return f"{self.step.name}.{self.within}{name}"

    def own(self, state: State, name: str) -> NDArray[Any]:
        """This step's array `name` in the state."""
        return state[self.key(name)]

    def merge(self, state: State, **arrays: Any) -> State:
        """`state` with this step's arrays set."""
        return {**state, **{self.key(n): np.asarray(a) for n, a in arrays.items()}}


class Transform(BaseTask[P]):
    """A step that changes or adds columns for all later steps of the plan.

    row_wise: each patient's new rows depend on that patient's own rows and the public state, on nobody else's. Only then does
    the privacy of later steps stand: elsewhere one patient could change what every other patient adds to a sum.
    """

    row_wise: ClassVar[bool]

    def derived(self) -> dict[str, Variable]:
        """What later steps see changed or added: a function of the plan and the contract alone."""
        raise NotImplementedError

    def apply(self, state: State, rows: Rows) -> Rows:
        """The rows, in the same order and of the same patients, as later steps see them. Raises `TaskError`."""
        raise NotImplementedError


class Seen(Study):
    """A study as one of its steps sees it: the contract, and what earlier steps made of it. It is the same study and has its digest."""

    _asked: Study = PrivateAttr()

    @classmethod
    def of(cls, study: Study, variables: Mapping[str, Variable]) -> Seen:
        """`study`, with these variables in place of its contract's."""
        seen = cls.model_construct(**{name: getattr(study, name) for name in type(study).model_fields})
        seen.__dict__["data"] = study.data.model_copy(update={"variables": dict(variables)})
        seen._asked = asked(study)
        return seen

    @cached_property
    def canonical(self) -> bytes:
        return self._asked.canonical


def asked(study: Study) -> Study:
    """The study as it was asked and signed, whose contract says what a site's own rows hold."""
    return study._asked if isinstance(study, Seen) else study


MOST_TRANSFORMS = 32
"""Steps of one plan that change rows: every later step of a visit waits for them."""
_EXACT: dict[str, type[BaseTask[Any]]] = {}
_PRIVATE: dict[str, type[BaseTask[Any]]] = {}


def register(cls: T) -> T:
    """Class decorator: make a task available under its `kind` to studies whose sums are exact."""
    _EXACT[cls.kind] = cls
    return cls


def register_private(cls: T) -> T:
    """Class decorator: make a task available under its `kind` to studies with differential privacy; see `tasks.private`."""
    _PRIVATE[cls.kind] = cls
    return cls


def kinds() -> list[str]:
    """The names of all tasks that a manifest may use."""
    return sorted({*_EXACT, *_PRIVATE})


def private_kinds() -> list[str]:
    """Those that have a form with differential privacy."""
    return sorted(_PRIVATE)


def build(step: Step, study: Study) -> Task:
    """The task that a manifest's step names, with validated parameters; raises `ManifestError`."""
    cls = _class(step, study)
    return cls.build(step, _before(step, study)[1])  # type: ignore[return-value]


def build_plan(study: Study) -> list[Task]:
    """Every step of the study's plan as a task, in order; raises `ManifestError`."""
    return [build(step, study) for step in study.plan]


def _before(step: Step, study: Study) -> tuple[tuple[Transform[Any], ...], Study]:
    """The transforms that the plan has before `step`, and the study as `step` sees it."""
    out: list[Transform[Any]] = []
    view = study = asked(study)
    for earlier in takewhile(lambda s: s.name != step.name, study.plan):
        cls = _class(earlier, study)
        if not issubclass(cls, Transform):
            continue
        if len(out) == MOST_TRANSFORMS:
            raise ManifestError(f"More than {MOST_TRANSFORMS} steps of the plan change the rows of later ones.", fix="join them: a step takes many variables")
        out.append(cls.build(earlier, view))
        view = Seen.of(study, {**view.data.variables, **out[-1].derived()})
    return tuple(out), view


def _class(step: Step, study: Study) -> type[BaseTask[Any]]:
    """The form of the step's task that the study's terms ask for; raises `ManifestError`."""
    if step.task not in kinds():
        raise ManifestError(f"Step '{step.name}' asks for the task '{step.task}', which does not exist.", fix=nearest(step.task, kinds()))
    privacy = study.terms.privacy
    if not privacy.on and step.task not in _EXACT:
        raise ManifestError(
            f"Step '{step.name}': the task '{step.task}' has no form without noise.",
            why="It would show what single patients have.",
            fix="give eps, delta and patients under terms.privacy, perhaps in a study of its own",
        )
    cls = _PRIVATE[step.task] if privacy.on and step.task in _PRIVATE else _EXACT[step.task]
    if privacy.on and issubclass(cls, Transform) and not cls.row_wise and privacy.unit == "patient":
        raise ManifestError(
            f"Step '{step.name}': after the task '{step.task}' no {privacy.unit} could be protected by noise.",
            why="Its new values of a patient depend on the other patients of the site: one patient could change all that later steps add up.",
            fix="leave the step out, or set privacy = 'none' under terms: then sums are exact, and each site has to accept that",
        )
    if privacy.on and step.task not in _PRIVATE:
        raise ManifestError(
            f"Step '{step.name}': the task '{step.task}' has no form that protects each {privacy.unit} by noise.",
            why="One of them could change its answer without bound.",
            fix="leave the step out, or set privacy = 'none' under terms: then sums are exact, and each site has to accept that",
        )
    return cls
