"""A whole peer round in this process, with real keys: the sites and the coordinator take their steps in turn."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from locum.federation.identity import Identity, PublicKey
from locum.secagg import cohort, masks, session, site
from locum.secagg.cohort import Part
from locum.secagg.encoding import Encoding
from locum.secagg.kdf import digest
from locum.secagg.ring import Ints
from locum.secagg.session import Entropy, Session, Setup, Sign
from locum.secagg.site import Secrets
from locum.secagg.suites import DEFAULT, SUITES
from locum.secagg.topology import Manifest
from locum.study.manifest import Masking
from locum.study.vector import Array, Field, Layout

_POOL: dict[str, Identity] = {}


def identity(name: str) -> Identity:
    """One key pair for each name: making them anew in every example would only take time."""
    return _POOL.setdefault(name, Identity.generate())


class Quick:
    """A key pair for cohorts of hundreds: a keyed hash, a hundred times as fast as Ed25519, and its own public key."""

    def __init__(self, name: str) -> None:
        self._key = hashlib.sha256(name.encode()).digest()

    @property
    def public(self) -> Quick:
        return self

    def sign(self, label: bytes, message: bytes) -> bytes:
        return hashlib.blake2b(label + b"\0" + message, key=self._key).digest()

    def verify(self, label: bytes, signature: bytes, message: bytes) -> bool:
        return signature == self.sign(label, message)


def names(n: int) -> list[str]:
    return [f"site-{i:04d}" for i in range(n)]


def seeded(seed: int) -> Entropy:
    """Bytes that repeat themselves."""
    return random.Random(seed).randbytes


@dataclass
class Federation:
    """n sites and a coordinator. Each site's state is its own; what passes between them is bytes."""

    n: int
    terms: Masking = field(default_factory=Masking)
    n_min: int = 3
    suite: str = DEFAULT
    entropy: Entropy = os.urandom
    absent: Collection[str] = ()
    quick: bool = False

    def __post_init__(self) -> None:
        self.names = names(self.n)
        self.keys: dict[str, PublicKey | Quick] = {name: self.identity(name).public for name in self.names}
        self.setup = Setup.of(study="study", run="run", t=0, roster="roster", suite=SUITES[self.suite], keys=self.keys, n_min=self.n_min)
        self.sessions: dict[str, Session] = {}
        self.members: list[str] = []
        self.seed = b""

    def identity(self, name: str) -> Identity | Quick:
        return Quick(name) if self.quick else identity(name)

    def sign(self, name: str) -> Sign:
        return self.identity(name).sign

    @property
    def here(self) -> list[str]:
        return [s for s in self.names if s not in self.absent]

    def agree(self, t: int = 0) -> None:
        """What a set-up in round t leaves behind, without its public-key work: for cohorts of hundreds, and for many examples."""
        self.members = self.here
        self.seed = digest("play seed", self.setup.id, *self.members)
        self.sessions = {
            s: Session(self.setup.id, tuple(self.members), self.seed, t, {o: digest("play root", *sorted((s, o))) for o in self.members if o != s})
            for s in self.members
        }

    def set_up(self) -> None:
        """KEYS and SEALS."""
        told = {s: session.announce(self.setup, s, self.sign(s), self.entropy) for s in self.here}
        lists = session.key_list(self.setup, {s: body for s, (_, body) in told.items()})
        seals = {s: session.seal(self.setup, s, told[s][0], lists[s], self.sign(s), self.entropy) for s in lists}
        self.seed, columns = session.columns(self.setup, seals, next(iter(lists.values())))
        self.members = sorted(columns)
        self.sessions = {s: session.open_column(self.setup, s, told[s][0], columns[s], 0) for s in columns}

    def manifest(self, t: int, **changes: object) -> Manifest:
        fields = {"digest": digest("manifest", t), "t": t, "roster": tuple(self.names), "keys": self.keys, "n_min": self.n_min, "terms": self.terms}
        return Manifest(**{**fields, **changes})  # type: ignore[arg-type]


@dataclass
class Play:
    """One round of a federation; each step is a method, so that a test can come between."""

    federation: Federation
    t: int = 1

    def __post_init__(self) -> None:
        f = self.federation
        self.m = f.manifest(self.t)
        self.secrets: dict[str, Secrets] = {}
        self.joins: dict[int, bytes] = {}
        self.y: dict[int, dict[str, Ints]] = {}
        self.confirms: dict[int, bytes] = {}
        self.answers: dict[int, bytes] = {}

    def number(self, name: str) -> int:
        return self.m.number(name)

    def join(self, who: Collection[str] | None = None) -> dict[int, bytes]:
        f = self.federation
        for s in who if who is not None else f.sessions:
            self.secrets[s], self.joins[self.number(s)] = site.join(self.m, f.sessions[s], s, f.sign(s), f.entropy)
        self.u1 = cohort.joined(self.m, f.setup.id, f.members, f.seed, self.joins)
        self.rosters = cohort.rosters(self.u1)
        return self.rosters

    def mask(self, x: Mapping[int, Mapping[str, Ints]], encoding: Encoding, who: Collection[int] | None = None, *, threads: int = 1) -> None:
        """Each of `who` (default: all of U1) masks its x."""
        for i in who if who is not None else self.u1.joins:
            s = self.secrets[self.m.roster[i]]
            streams = site.mask(self.m, s, self.m.roster[i], self.rosters[i])
            y = {g: a.copy() for g, a in x[i].items()}
            masks.apply(y, encoding.rings, streams, s.j, threads=threads)
            self.y[i] = y

    def confirm(self, who: Collection[int] | None = None) -> None:
        self.u2 = sorted(self.y)
        raw = cohort.survivors(self.u2)
        for i in who if who is not None else self.u2:
            name = self.m.roster[i]
            self.confirms[i] = site.confirm(self.m, self.secrets[name], name, raw, self.federation.sign(name))

    def unmask(self, who: Collection[int] | None = None) -> None:
        raw, _ = cohort.request(self.m, self.u1, self.u2, self.confirms)
        for i in who if who is not None else self.u2:
            name = self.m.roster[i]
            self.answers[i] = site.unmask(self.m, self.secrets[name], name, raw)

    def recover(self) -> list[Part]:
        return cohort.recover(self.m, self.u1, self.u2, self.answers)

    def part_sum(self, part: Part, encoding: Encoding) -> dict[str, Ints]:
        """One bucket's sum, unmasked."""
        acc = plain_sum(encoding, [self.y[i] for i in part.survivors])
        masks.apply(acc, encoding.rings, part.streams, self.u1.j)
        return acc

    def total(self, encoding: Encoding) -> dict[str, Ints]:
        """The sum over all buckets, unmasked."""
        return plain_sum(encoding, [self.part_sum(part, encoding) for part in self.recover()])


def encoding(d: int, n: int, bits: int = 32, wide: int = 3) -> Encoding:
    """A layout with a narrow group of d and a wide group of `wide` and the weight."""
    layout = Layout((Field("u", (d,), "float32"), Field("s", (wide,)), Field("k", (2,), "int64"), Field("weight", ())))
    return Encoding(layout, n, Masking(clip=1.0, bits=bits))


def random_elements(e: Encoding, rng: np.random.Generator) -> dict[str, Ints]:
    """Uniform ring elements: the sum must be exact for any."""
    out: dict[str, Ints] = {}
    for g, size in e.sizes.items():
        ring = e.rings[g]
        raw = rng.integers(0, 256, size * ring.itemsize, dtype=np.uint8).tobytes()
        out[g] = np.frombuffer(raw, ring.dtype).reshape(ring.shape(size)).copy()
        ring.reduce(out[g])
    return out


def plain_sum(e: Encoding, vectors: Collection[Mapping[str, Ints]]) -> dict[str, Ints]:
    acc = e.zeros()
    for v in vectors:
        e.add(acc, v)
    return acc


def vector(e: Encoding, rng: np.random.Generator) -> dict[str, Array]:
    """Finite numbers in the encoding's layout, with a narrow part of norm below the clip."""
    out: dict[str, Array] = {}
    for f in e.layout.fields:
        a = rng.normal(size=f.shape)
        out[f.name] = np.asarray((a * 10).astype(np.int64) if f.dtype == "int64" else a.astype(f.dtype))
    out["u"] = (0.9 * out["u"] / max(1e-9, float(np.linalg.norm(out["u"])))).astype(np.float32)
    out["weight"] = np.asarray(1.0)
    return out
