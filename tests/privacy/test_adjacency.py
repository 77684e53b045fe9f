"""One adjacency, as a type; and why it is the only one."""

from typing import Any

import dp_accounting as dp
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from locum.privacy import Adjacency, PrivacyError


@pytest.mark.parametrize("unit", ["patient", "site"])
def test_the_sensitivity_is_the_clip(unit: Any) -> None:
    assert Adjacency(unit).sensitivity(0.7) == 0.7
    assert Adjacency(unit).relation is dp.NeighboringRelation.ADD_OR_REMOVE_ONE


def test_removing_one_vector_moves_the_sum_by_at_most_the_clip_and_replacing_one_by_up_to_two() -> None:
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    total = vectors.sum(axis=0)
    moved = max(float(np.linalg.norm(total - np.delete(vectors, i, axis=0).sum(axis=0))) for i in range(3))
    assert moved <= Adjacency().sensitivity(1.0)
    replaced = vectors.copy()
    replaced[0] = -vectors[0]
    assert np.linalg.norm(total - replaced.sum(axis=0)) == 2 * Adjacency().sensitivity(1.0)


@pytest.mark.parametrize("kind", ["replace_one", "REPLACE_ONE", "replace_special", dp.NeighboringRelation.REPLACE_ONE, ""])
def test_replace_one_is_refused(kind: Any) -> None:
    with pytest.raises(PrivacyError, match="adjacency") as caught:
        Adjacency("patient", kind)
    assert caught.value.why
    assert caught.value.fix


def test_the_librarys_accountants_disagree_about_replace_one() -> None:
    """The trap that the type closes: one takes two clips, the other one."""
    event, relation = dp.GaussianDpEvent(1.0), dp.NeighboringRelation.REPLACE_ONE
    by_loss = PLDAccountant(relation).compose(event).get_epsilon(1e-5)
    by_renyi = RdpAccountant(None, relation).compose(event).get_epsilon(1e-5)
    assert by_loss == pytest.approx(dp.get_epsilon_gaussian(0.5, 1e-5), rel=1e-4)  # sensitivity 2
    assert by_renyi < by_loss / 2  # sensitivity 1


@pytest.mark.parametrize("unit", ["record", "hospital", "", None])
def test_an_unknown_unit_is_refused(unit: Any) -> None:
    with pytest.raises(PrivacyError, match="unit"):
        Adjacency(unit)
