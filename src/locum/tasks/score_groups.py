"""Groups of patients by predicted risk, from counts of scores in fixed bins: what a calibration plot shows (Hosmer and Lemeshow, 1980).

Neighbouring bins are joined until a group holds a tenth of the patients, and at least five with and five without the outcome, so that no
group tells of fewer. The share's interval is Wilson's (1927, JASA 22:209), which stays within 0 and 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.tasks.tails import Z95

Floats = NDArray[np.float64]
GROUPS, FEWEST = 10, 5


def groups(positive: Floats, negative: Floats, risk: Floats) -> Floats:
    """Of each group its mean risk, patients with the outcome, and patients, shape (g, 3), g between 0 and 10.

    positive, negative, risk: (bins,) counts with and without the outcome, and the risk of each bin's middle, in order of risk.
    """
    n = positive + negative
    target = float(n.sum()) / GROUPS
    ends: list[int] = []
    p = q = 0.0
    for k in np.flatnonzero(n):
        p, q = p + float(positive[k]), q + float(negative[k])
        if min(p, q) >= FEWEST and p + q >= target * (1.0 - 1e-9):
            ends.append(int(k) + 1)
            p = q = 0.0
    if not ends:
        whole = min(float(positive.sum()), float(negative.sum())) >= FEWEST
        ends = [len(n)] if whole else []
    elif p + q > 0:  # too few are left over for a group of their own
        ends[-1] = len(n)
    if not ends:
        return np.zeros((0, 3))
    starts = [0, *ends[:-1]]
    return np.asarray([[float(n[a:b] @ risk[a:b] / n[a:b].sum()), positive[a:b].sum(), n[a:b].sum()] for a, b in zip(starts, ends, strict=True)], float)


def described(table: Floats) -> list[dict[str, Any]]:
    """The groups as plain JSON data: predicted, observed, low and high of its 95 % interval, and n."""
    out = []
    for predicted, events, n in table.tolist():
        low, high = wilson(events, n)
        out.append({"predicted": predicted, "observed": events / n, "low": low, "high": high, "n": round(n)})
    return out


def wilson(events: float, n: float) -> tuple[float, float]:
    """The 95 % interval of a share."""
    share, z2 = events / n, Z95**2
    middle, half = share + z2 / (2 * n), Z95 * float(np.sqrt(share * (1 - share) / n + z2 / (4 * n * n)))
    return max(0.0, (middle - half) / (1 + z2 / n)), min(1.0, (middle + half) / (1 + z2 / n))
