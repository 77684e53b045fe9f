"""How sites code yes and no, and the sexes, in four languages; and what is asked instead of guessed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from locum.data.names import words

_YES = {"true", "t", "yes", "y", "j", "ja", "oui", "o", "si", "s", "wahr", "vrai", "verdadero", "positive", "positiv", "pos", "present", "x", "1"}
_NO = {"false", "f", "no", "n", "nein", "non", "falsch", "faux", "falso", "negative", "negativ", "neg", "absent", "0"}
_FEMALE = {"f", "female", "w", "weiblich", "frau", "femme", "feminin", "femenino", "mujer", "woman"}
_MALE = {"m", "male", "maennlich", "mann", "homme", "masculin", "masculino", "hombre", "man", "h"}
_DEAD = {"dead", "deceased", "died", "expired", "tot", "verstorben", "decede", "fallecido", "muerto"}
_ALIVE = {"alive", "living", "lebt", "lebend", "vivant", "vivo"}
_PLAIN = {"0", "1", "true", "false", "yes", "no"}
"""What a boolean variable takes without a list of values."""


def _word(value: str) -> str:
    return "".join(words(value))


def booleans(values: Collection[str], about: Mapping[str, float]) -> dict[str, int] | None:
    """Value -> 1 or 0, {} where it needs no list, None where people must say. about: what the variable means (`names.meant`)."""
    kinds = {v: _word(v) for v in values}
    sexes = _sexes(set(kinds.values()))
    if sexes and ("female" in about or "male" in about):
        one = "female" if "female" in about else "male"
        return {v: int(sexes[w] == one) for v, w in kinds.items()}
    if sexes and not {"yes", "no"} & set(kinds.values()):
        return None  # M and F say nothing of a variable that is neither
    if {v.lower() for v in values} <= _PLAIN:
        return {}
    for yes, no in ((_YES, _NO), (_DEAD, _ALIVE)):
        if set(kinds.values()) <= yes | no and not (yes & no & set(kinds.values())):
            return {v: int(w in yes) for v, w in kinds.items()}
    return None


def _sexes(found: set[str]) -> dict[str, str]:
    """Word -> 'female' or 'male', {} where these are no sexes or it cannot be told."""
    if found == {"h", "m"}:  # Spanish: hombre, mujer
        return {"h": "male", "m": "female"}
    if not found or not found <= _FEMALE | _MALE or found == {"f"} or found == {"h"}:
        return {}
    return {w: "female" if w in _FEMALE else "male" for w in found}


def categories(values: Sequence[str], wanted: Sequence[str], codes: Mapping[str, Sequence[str]]) -> tuple[dict[str, str], list[str]]:
    """Value -> category for those that are spelled otherwise than in the contract, and the values that no category explains.

    codes: category -> its codes in the contract, which need no list.
    """
    known = {c for found in codes.values() for code in found for c in (code, code.rpartition("|")[2])}
    by_word = {_word(c): c for c in wanted}
    sexes = {sex: c for c in wanted for w, sex in _sexes({_word(x) for x in wanted}).items() if w == _word(c)}
    own = _sexes({_word(v) for v in values})
    truths = {truth: c for c in wanted for truth in [_truth(_word(c))] if truth is not None and len(wanted) <= 3}
    mapped: dict[str, str] = {}
    unknown: list[str] = []
    for v in values:
        word = _word(v)
        if v in wanted or v in known:
            continue
        if word in by_word:
            mapped[v] = by_word[word]
        elif own and sexes and own[word] in sexes:
            mapped[v] = sexes[own[word]]
        elif word not in ("0", "1") and (truth := _truth(word)) is not None and truth in truths:
            mapped[v] = truths[truth]
        else:
            unknown.append(v)
    if mapped:  # a list of values must hold every cell
        mapped |= {v: v for v in values if v in wanted}
    return mapped, unknown


def _truth(word: str) -> bool | None:
    return True if word in _YES else False if word in _NO else None
