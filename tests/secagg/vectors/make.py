"""Writes transcript-v1.json: whole rounds of the real code, frozen.

    python tests/secagg/vectors/make.py

`test_frozen.py` recomputes it in Python and `node/mask_core.mjs` in JavaScript, from the specification. If it changes, the
wire has changed: sites of two releases would no longer understand each other, and the labels need a new version.

All randomness of a round is seeded, so the same file comes out each time. HPKE draws its own, so a set-up cannot be repeated:
it is kept once made. Byte strings are hexadecimal; maps from site to site have the numbers as text.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from locum.federation.identity import Identity
from locum.secagg import graph, rotation, session, shamir
from locum.secagg.encoding import Encoding
from locum.secagg.kdf import KEY_BYTES, join, label
from locum.secagg.masks import keystream_key
from locum.secagg.messages import Unmask, decode
from locum.secagg.parameters import Parameters
from locum.secagg.ring import Ints
from locum.secagg.session import Entropy, Session
from locum.secagg.site import open_escrow
from locum.secagg.suites import SUITES
from locum.study.manifest import Masking
from locum.study.vector import Field, Layout

FILE = Path(__file__).with_name("transcript-v1.json")

_spec = importlib.util.spec_from_file_location("secagg_vectors_play", Path(__file__).parents[1] / "play.py")
assert _spec
assert _spec.loader
play = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = play  # where dataclasses look for it
_spec.loader.exec_module(play)
for _name in play.names(5):  # keys that are the same each time
    play._POOL[_name] = Identity(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"a test's identity: " + _name.encode()).digest()))

SMALL = Layout((Field("u", (13,), "float32"), Field("s", (2,)), Field("weight", ())))
EXACT = Layout.of(s=(7,), weight=())
CASES: tuple[dict[str, Any], ...] = (
    {"name": "5 sites, 1 drops out after JOIN, 32 bits", "n": 5, "bits": 32, "dropped": [2]},
    {"name": "4 sites, all stay, 16 bits", "n": 4, "bits": 16},
    {"name": "5 sites, 1 drops out after JOIN, 20 bits packed", "n": 5, "bits": 20, "dropped": [4]},
    {"name": "4 sites, 1 does not answer UNMASK, 12 bits packed", "n": 4, "bits": 12, "silent": [0]},
    {"name": "5 sites, 1 does not JOIN, wide alone", "n": 5, "bits": 32, "absent": [1], "layout": EXACT},
    {"name": "4 sites, 1 drops out after JOIN, 8 bits", "n": 4, "bits": 8, "dropped": [0]},
    {"name": "3 sites, all stay, 24 bits", "n": 3, "bits": 24},
    {"name": "3 sites, all stay, 28 bits packed", "n": 3, "bits": 28},
)


def federation(n: int, terms: Masking, entropy: Entropy) -> Any:
    """Sites whose session was set up already: its roots are drawn, because HPKE does not repeat itself."""
    f = play.Federation(n, terms=terms, entropy=entropy)
    f.members, f.seed = f.names, entropy(KEY_BYTES)
    roots = {(a, b): entropy(KEY_BYTES) for a in f.names for b in f.names if a < b}
    f.sessions = {a: Session(f.setup.id, tuple(f.names), f.seed, 0, {b: roots[min(a, b), max(a, b)] for b in f.names if b != a}) for a in f.names}
    return f


def elements(e: Encoding, entropy: Entropy) -> dict[str, Ints]:
    """Any ring elements: the sum must be exact for all."""
    out = {}
    for g, size in e.sizes.items():
        ring = e.rings[g]
        out[g] = np.frombuffer(entropy(size * ring.itemsize), ring.dtype).reshape(ring.shape(size)).copy()
        ring.reduce(out[g])
    return out


def wire(e: Encoding, values: dict[str, Ints]) -> dict[str, str]:
    return {g: a.tobytes().hex() for g, a in e.pack(values).items()}


def round_(
    number: int,
    name: str,
    n: int,
    bits: int,
    absent: Collection[int] = (),
    dropped: Collection[int] = (),
    silent: Collection[int] = (),
    layout: Layout = SMALL,
) -> dict[str, Any]:
    """One round. absent: never join; dropped: join and send no vector; silent: send a vector and do not answer UNMASK."""
    entropy = play.seeded(number)
    terms = Masking(clip=1.0, bits=bits)
    e, f = Encoding(layout, n, terms, entropy(KEY_BYTES)), federation(n, terms, entropy)
    roots = {a: dict(s.roots) for a, s in f.sessions.items()}
    p = play.Play(f, t=number + 1)
    p.join([s for i, s in enumerate(f.names) if i not in absent])
    kept = {i: copy.deepcopy(p.secrets[f.names[i]]) for i in p.joins}
    masked = [i for i in p.joins if i not in dropped]
    x = {i: elements(e, entropy) for i in masked}
    p.mask(x, e, masked)
    p.confirm()
    p.unmask([i for i in masked if i not in silent])
    j = p.u1.j

    sites = {}
    for i in sorted(p.joins):
        near = [k for k in p.u1.topology.neighbours[i] if k in p.u1.joins]
        seeds = {"self": ("self", kept[i].b), **{str(k): ("pair", kept[i].pairs[k]) for k in near}}
        site = {
            "public": f.keys[f.names[i]].raw.hex(),
            "roots": {str(k): roots[f.names[i]][f.names[k]].hex() for k in p.u1.topology.neighbours[i]},
            "b": kept[i].b.hex(),
            "k": kept[i].k.hex(),
            "pairs": {str(k): seed.hex() for k, seed in kept[i].pairs.items()},
            "join": p.joins[i].hex(),
            "digest": p.u1.digests[i].hex(),
        }
        if i in masked:
            site |= {
                "signs": {str(k): 1 if i < k else -1 for k in near},
                "keys": {g: {who: keystream_key(seed, purpose, j, g).hex() for who, (purpose, seed) in seeds.items()} for g in e.sizes},
                "x": wire(e, x[i]),
                "y": wire(e, p.y[i]),
                "confirm": p.confirms[i].hex(),
            }
        if i in p.answers:
            site["unmask"] = p.answers[i].hex()
        sites[str(i)] = site

    answers = {i: decode(raw, Unmask) for i, raw in p.answers.items()}
    recovered = []
    for i in sorted({*dropped, *silent}):
        which, tau, body = "k" if i in dropped else "b", p.u1.topology.threshold(i), p.u1.joins[i]
        shares = {h: (a.shares_k if which == "k" else a.shares_b)[i] for h, a in answers.items()}
        used = dict(sorted(shares.items())[:tau])
        secret = shamir.combine(used, tau)
        found = {"site": i, "secret": which, "threshold": tau, "shares": {str(h): s.hex() for h, s in used.items()}, "value": secret.hex()}
        if which == "k":
            plain = b"".join(open_escrow(p.m, i, secret, body).values())
            found["escrow"] = {"sealed": body.escrow.hex(), "aad": join(p.m.digest, i).hex(), "plain": plain.hex()}
        recovered.append(found)
    return {
        "name": name,
        "n": n,
        "t": p.t,
        "manifest": p.m.digest.hex(),
        "session": f.setup.id.hex(),
        "seed": f.seed.hex(),
        "groups": {g: {"bits": e.rings[g].bits, "size": size} for g, size in e.sizes.items()},
        "j": j.hex(),
        "sites": sites,
        "u2": p.u2,
        "recovered": recovered,
        "sum": wire(e, p.total(e)),
    }


def set_up(suite: str) -> dict[str, Any]:
    """KEYS and SEALS of three sites, and what each of them then knows."""
    f = play.Federation(3, suite=suite)
    told = {s: session.announce(f.setup, s, play.identity(s).sign, f.entropy) for s in f.names}
    listed = session.key_list(f.setup, {s: body for s, (_, body) in told.items()})
    seals = {s: session.seal(f.setup, s, told[s][0], listed[s], play.identity(s).sign, f.entropy) for s in f.names}
    seed, columns = session.columns(f.setup, seals, listed[f.names[0]])
    sites = {}
    for s in f.names:
        pending = told[s][0]
        sites[s] = {
            "public": f.keys[s].raw.hex(),
            "private": pending.private.hex(),
            "nonce": pending.nonce.hex(),
            "secrets": {to: secret.hex() for to, secret in pending.secrets.items()},
            "keys": told[s][1].hex(),
            "seals": seals[s].hex(),
            "roots": {to: root.hex() for to, root in session.open_column(f.setup, s, pending, columns[s], 0).roots.items()},
        }
    return {"suite": suite, "session": f.setup.id.hex(), "seed": seed.hex(), "sites": sites}


def graphs() -> list[dict[str, Any]]:
    out = []
    for n, k, t in ((9, 4, 1), (20, 6, 7)):
        seed = play.seeded(100 + n)(32)
        around = graph.neighbours(Parameters(n, k, k // 2 + 1), seed, t)
        out.append({"n": n, "k": k, "t": t, "seed": seed.hex(), "order": graph.permutation(n, seed, t), "neighbours": [list(near) for near in around]})
    return out


def signs() -> dict[str, Any]:
    """The signs of the rotation, 1 for a minus, as bits with the first one highest."""
    seed = play.seeded(200)(32)
    return {"seed": seed.hex(), "minus": np.packbits(rotation._signs(seed, 64) < 0).tobytes().hex()}


def encodings() -> list[dict[str, Any]]:
    """One site's vectors, encoded. No value needs a bit below 2^-64, no vector is clipped, and none is rotated (BLAS may add in
    another order on another machine): so there is one right answer.
    """
    exact = Encoding(Layout((Field("s", (8,)), Field("k", (3,), "int64"))), 3, Masking())
    vector = {"s": np.array([0.0, 1.0, -1.0, 0.1, -0.3, 1e15 + 0.5, -1e15 - 0.5, -(2.0**-64)]), "k": np.array([7, -7, 2**60])}
    wide = exact.encode(vector, 1.0, bytes(32))
    out: list[dict[str, Any]] = [{"s": [v.hex() for v in vector["s"].tolist()], "k": vector["k"].tolist(), "n": 3, "wide": wire(exact, wide)["wide"]}]
    for bits in (24, 28, 32):
        e = Encoding(Layout((Field("u", (6,), "float32"),)), 10, Masking(clip=1.0, bits=bits, max_weight=4.0))
        u, rounding = np.array([0.5, -0.5, 0.1, -0.1, 0.0, 2.0**-20], np.float32), play.seeded(bits)(32)
        narrow = wire(e, e.encode({"u": u}, 3.0, rounding))["narrow"]
        out.append({"u": [v.hex() for v in u.tolist()], "n": 10, "bits": bits, "weight": 3.0, "max_weight": 4.0, "rounding": rounding.hex(), "narrow": narrow})
    return out


def build(setups: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "version": label("").decode(),
        "made_by": "tests/secagg/vectors/make.py",
        "cases": [round_(number, **case) for number, case in enumerate(CASES)],
        "graphs": graphs(),
        "signs": signs(),
        "encodings": encodings(),
        "setups": setups,
    }


def text(made: dict[str, Any]) -> str:
    return json.dumps(made, indent=1) + "\n"


def main() -> None:
    setups = json.loads(FILE.read_text())["setups"] if FILE.exists() else [set_up(suite) for suite in SUITES]
    FILE.write_text(text(build(setups)))
    print(f"{FILE}: {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
