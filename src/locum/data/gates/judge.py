"""The gates, in order: counts of a pass become findings. Every gate says PASS, or what falls short and what to do about it.

conformance    every cell is a value of its type, or missing; nothing is guessed, so one wrong cell is REFUSE
completeness   at most the contract's share is missing
plausibility   nothing outside the hard range; outside the plausible one, more than 5 % is WARN and more than 50 % REFUSE
variation      values differ, at least as much as the contract asks
rows, split    enough patients and events; no patient in both parts
"""

from __future__ import annotations

from collections.abc import Iterator

from locum.data.gates.accumulators import Accumulator
from locum.data.gates.report import GATES, Finding, Report, Result, VariableSummary
from locum.data.gates.stream import Pass
from locum.data.gates.words import TYPES, advice, extent, number, place, reasons, share
from locum.data.mapping import Column
from locum.errors import agree, counted
from locum.study.manifest import Variable

PLAUSIBLE_WARN, PLAUSIBLE_REFUSE = 0.05, 0.5
"""Shares of values outside the plausible range above which a table is doubted, and refused."""


def judge(found: Pass, min_patients: int = 1) -> Report:
    """The report on a pass. min_patients: what the study's terms and the site ask for; the contract's cohort may ask for more."""
    events = _events(found)
    findings = [*_source(found), *_rows(found, min_patients, events), *_split(found), *_twins(found)]
    summaries = {}
    for name in found.data.variables:
        accumulator = found.variables.get(name)
        if name in found.absent:
            why = found.absent[name]
            findings.append(Finding(name, "conformance", "REFUSE", found.rows, why.what, why.fix))
        elif accumulator is not None:
            summary = summaries[name] = accumulator.summary()
            findings += _of_variable(name, summary, accumulator, found)
    return Report(
        rows=found.rows,
        patients=found.patients.patients,
        findings=tuple(sorted(findings, key=lambda f: GATES.index(f.gate))),  # a stable sort: within a gate the contract's order
        variables=summaries,
        repeated=found.patients.repeated,
        most_rows=found.patients.most_rows,
        events=events,
        cohort=dict(found.cohort),
        source=found.source.to_json() if found.source is not None else None,
    )


def _of_variable(name: str, s: VariableSummary, a: Accumulator, found: Pass) -> Iterator[Finding]:
    yield _conformance(name, s, a, found)
    if s.variable.role != "patient":
        yield _completeness(name, s)
        yield _plausibility(name, s, a, found.columns.get(name))
        yield _variation(name, s)


def _source(found: Pass) -> Iterator[Finding]:
    tally = found.source
    if tally is None:
        return
    refused = tally.refused.total()
    what = f"{refused:,} of {counted(tally.read, 'record')} cannot be used: {reasons(tally.refused)}"
    if not tally.balanced or (tally.rows and tally.used != found.read):
        what = f"of {counted(tally.read, 'record')}, {found.read:,} were looked at and {refused + tally.left_out.total():,} set aside: some are lost"
        yield Finding("", "source", "REFUSE", abs(tally.read - found.read), what, "report this as a fault of the source's reader")
    elif refused > found.accept_refused * tally.read:
        fix = "correct them at their source, or accept the loss with accept_refused = 0.01 (a share) under [source] in the mapping"
        yield Finding("", "source", "REFUSE", refused, what, fix)
    else:
        yield Finding("", "source", "WARN" if refused else "PASS", refused, what if refused else "")


def _rows(found: Pass, least: int, events: int | None) -> Iterator[Finding]:
    cohort, patients = found.data.cohort, found.patients.patients
    least = max(least, cohort.min_patients)
    left = (
        f" ({found.cohort.total():,} of {counted(found.read, 'row')} {agree(found.cohort.total(), 'does', 'do')} not belong to the cohort)"
        if found.cohort.total()
        else ""
    )
    if found.rows and patients >= least:
        yield Finding("", "rows", "PASS", found.rows)
    else:
        there = f"there {agree(patients, 'is', 'are')} {counted(patients, 'patient')}"
        what = f"{there}, and {least:,} are needed{left}" if found.read else "there are no rows"
        fix = "check the units and codes of what the cohort's rules read" if left else "take part once the site has enough patients"
        fix = fix if found.read else "check the export, and the filter that made it"
        yield Finding("", "rows", "REFUSE", found.rows, what, fix)
    if events is not None and events < cohort.min_events:
        fix = "take part once the site has enough events, or check how the event is coded"
        yield Finding("", "rows", "REFUSE", events, f"there {agree(events, 'is', 'are')} {counted(events, 'event')}, and {cohort.min_events:,} are needed", fix)
    copies = found.patients.copies
    if copies:
        what = f"{counted(copies, 'row equals', 'rows equal')} another row of the same patient in every column"
        yield Finding("", "rows", "WARN", copies, what, "where a row was exported twice, leave the copy out: it counts twice in every sum")


def _split(found: Pass) -> Iterator[Finding]:
    name = found.data.of_role("split")
    if name is None or name in found.absent:
        return
    both, undecided = found.patients.both, found.patients.undecided
    if both:
        what = f"{counted(both, 'patient is', 'patients are')} in the training part and in the test part"
        yield Finding("", "split", "REFUSE", both, what, f"give all rows of a patient the same value of '{name}': a model would be tested on whom it has seen")
    if undecided:
        what = f"{counted(undecided, 'row does', 'rows do')} not say in '{name}' which part {agree(undecided, 'it is', 'they are')} in"
        yield Finding("", "split", "REFUSE", undecided, what, "complete it: 1 for test, 0 for training")
    if not both and not undecided:
        yield Finding("", "split", "PASS")


def _twins(found: Pass) -> Iterator[Finding]:
    """Variables that are the same column, read in the same way."""
    first: dict[str, str] = {}
    for name, column in found.columns.items():
        twin = first.setdefault(column.model_dump_json(), name)
        if twin != name:
            what = f"'{name}' and '{twin}' are mapped to the same column in the same way"
            yield Finding(name, "conformance", "WARN", found.rows, what, "correct the mapping, unless the study asks for one thing twice")


def _conformance(name: str, s: VariableSummary, a: Accumulator, found: Pass) -> Finding:
    if not s.wrong:
        return Finding(name, "conformance", "PASS")
    v, where = s.variable, place(found.columns.get(name), name)
    if v.role == "patient":
        what = f"{s.wrong:,} of {counted(found.read, 'row')} {agree(s.wrong, 'has', 'have')} no patient identifier"
    elif found.source is None:
        what = f"{counted(s.wrong, 'value')} of '{name}' {agree(s.wrong, 'is', 'are')} not {TYPES[v.type]}"
    else:
        kinds = f" ({counted(len(s.unknown), 'code', 'different codes')})" if s.unknown else ""
        what = f"{s.wrong:,} of {counted(found.read, 'cell')} {where} {agree(s.wrong, 'is', 'are')} not {TYPES[v.type]}{kinds}"
    fix = advice(v, found.columns.get(name)) if found.source is not None else f"correct the source or the mapping of '{name}'"
    return Finding(name, "conformance", "REFUSE", s.wrong, what, fix, tuple(a.wrong_examples))


def _completeness(name: str, s: VariableSummary) -> Finding:
    codes = f" ({s.recoded:,} of them held a code for 'no value')" if s.recoded else ""
    there = f"{s.missing:,} of {counted(s.rows, 'value')} of '{name}' {agree(s.missing, 'is', 'are')} missing"
    if s.rows and s.missing / s.rows > s.variable.max_missing:
        what = f"{there}{codes}, and at most {s.variable.max_missing:.0%} may be"
        return Finding(name, "completeness", "REFUSE", s.missing, what, f"find why '{name}' is missing, or stay out of this study")
    if s.rows and s.missing == s.rows:
        return Finding(name, "completeness", "WARN", s.missing, f"'{name}' has no value at all{codes}")
    return Finding(name, "completeness", "PASS", s.missing, f"{counted(s.recoded, 'cell')} held a code for 'no value'" if s.recoded else "")


def _plausibility(name: str, s: VariableSummary, a: Accumulator, column: Column | None) -> Finding:
    """One finding on both ranges."""
    v, outside, doubtful = s.variable, s.below + s.above, s.low + s.high
    part, says = doubtful / s.values if s.values else 0.0, []
    if outside:
        lie = f"{counted(outside, 'value')} of '{name}' {agree(outside, 'lies', 'lie')}"
        says.append(f"{lie} {extent(v.minimum, v.maximum, v)} ({s.below:,} below, {s.above:,} above)")
    if v.plausible is not None and part > PLAUSIBLE_WARN and doubtful > outside:
        between = f"{number(v.plausible[0], v)} and {number(v.plausible[1], v)}{f' {v.unit}' if v.unit else ''}"
        what = f"{doubtful:,} of {counted(s.values, 'value')} of '{name}' ({share(doubtful, s.values)}) {agree(doubtful, 'is', 'are')} implausible"
        says.append(f"{what}: nearly all should lie between {between} ({s.low:,} below, {s.high:,} above)")
    if not says:
        return Finding(name, "plausibility", "PASS", doubtful)
    result: Result = "REFUSE" if outside or part > PLAUSIBLE_REFUSE else "WARN"
    count = doubtful if len(says) > 1 or not outside else outside
    return Finding(name, "plausibility", result, count, "; ".join(says), _remedy(name, s, a, count, column), tuple(a.range_examples))


def _remedy(name: str, s: VariableSummary, a: Accumulator, outside: int, column: Column | None) -> str:
    """An expression is corrected. Of a column, the unit that would explain the values; else a code for 'no value', if most of those outside are
    equal; else both as possibilities."""
    if column is not None and column.expression is not None:
        return f"correct the expression of '{name}' in the mapping: its units and factors, and codes for 'no value' in its columns"
    units = other_units(s) if outside > PLAUSIBLE_WARN * s.values else ()
    if units:
        others = f", or perhaps in {' or '.join(units[1:])}" if units[1:] else ""
        return f'the values look as if they were in {units[0]}{others}: if so, write {name} = {{ column = "...", unit = "{units[0]}" }} in the mapping'
    commonest = max(a.outside.values(), default=0)
    if commonest > 1 and 2 * commonest > outside:
        return f"{commonest:,} of them are one and the same value: if it is a code for 'no value', list it for '{name}' as missing = [...] in the mapping"
    if s.variable.type == "date":
        return f"correct the dates of '{name}' at their source, or say in the mapping how they are written: format = \"...\""
    return f"for '{name}' in the mapping, list codes that mean 'no value' as missing = [...], or give the source's unit and scale if it is another"


def other_units(s: VariableSummary) -> tuple[str, ...]:
    """Units in which the middle half of the values would be plausible; the likeliest first."""
    v = s.variable
    within = v.plausible or ((v.minimum, v.maximum) if v.minimum is not None and v.maximum is not None else None)
    if v.unit is None or within is None or not s.quantiles:
        return ()
    from locum.data.units import suggest  # it reads its tables of units when it is imported

    return tuple(suggest(s.quantiles[1:4], v.unit, within, v.molar_mass))


def _variation(name: str, s: VariableSummary) -> Finding:
    if s.mode_share is None or s.variable.type == "array":
        return Finding(name, "variation", "PASS")
    varying, least = 1.0 - s.mode_share, s.variable.min_varying
    if varying < least - 1e-12:
        what = f"{s.mode_share:.1%} of the values of '{name}' are one and the same, and at least {least:.1%} must differ from it"
        return Finding(name, "variation", "REFUSE", s.values, what, f"check the export of '{name}': a default may stand where nothing was recorded")
    if s.mode_share == 1.0:
        return Finding(name, "variation", "WARN", s.values, f"'{name}' has one value throughout")
    return Finding(name, "variation", "PASS")


def _events(found: Pass) -> int | None:
    """Rows in which the event happened: of the variable of role 'event', or of the boolean outcome."""

    def counts(variable: Variable) -> bool:
        return variable.role == "event" or (variable.role == "outcome" and variable.type == "boolean")

    name = found.data.of_role("event") or next((n for n, v in found.data.variables.items() if counts(v)), None)
    if name is None or name in found.absent or name not in found.variables:
        return None
    a = found.variables[name]
    if a.coded and a.bins is not None:
        return int(a.bins.counts[2]) if a.variable.type == "boolean" else None
    return round(a.mean * a._n) if a.counted else None
