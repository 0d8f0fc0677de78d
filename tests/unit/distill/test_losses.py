"""Losses against values worked out by hand, and the words that name them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.unit.distill.lessons import target

from forebay.core.errors import SetupError
from forebay.distill.losses import TorchLoss, check_losses, parse_losses, soft_targets, usual_losses
from forebay.distill.students.classic import cross
from forebay.distill.target import finished

torch = pytest.importorskip("torch", reason="torch comes with an extra")

LOG3 = math.log(3.0)
"""Logits of 0 and log 3 are probabilities of a quarter and three quarters."""


def loss_of(weights: dict[str, float], raw: list[list[float]], wanted: list[list[float]], **more: object) -> float:
    temperature = float(more.pop("temperature", 1.0))  # type: ignore[arg-type]
    labels = more.pop("labels", None)
    kind = more.pop("of", None) or target("logits", len(raw[0]))
    found = TorchLoss(weights, temperature, kind)(  # type: ignore[arg-type]
        torch.tensor(raw), torch.tensor(wanted), None if labels is None else torch.tensor(labels)
    )
    return float(found)


def test_kl_is_what_hinton_wrote() -> None:
    # Teacher 1/4, 3/4; student 1/2, 1/2.
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert loss_of({"kl": 1.0}, [[0.0, 0.0]], [[0.0, LOG3]]) == pytest.approx(expected, abs=1e-6)


def test_a_temperature_softens_both_sides_and_its_square_keeps_the_slope() -> None:
    # Twice the logits at a temperature of 2 are the same soft probabilities; the loss is four times as large.
    expected = 4 * (0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5))
    assert loss_of({"kl": 1.0}, [[0.0, 0.0]], [[0.0, 2 * LOG3]], temperature=2.0) == pytest.approx(expected, abs=1e-6)


def test_probabilities_of_a_teacher_teach_what_its_logits_would() -> None:
    by_logits = loss_of({"kl": 1.0}, [[0.3, -0.2]], [[0.0, LOG3]], temperature=3.0)
    by_shares = loss_of({"kl": 1.0}, [[0.3, -0.2]], [[0.25, 0.75]], temperature=3.0, of=target("probabilities", 2))
    assert by_shares == pytest.approx(by_logits, abs=1e-6)


def test_a_probability_of_zero_is_no_infinite_loss() -> None:
    assert math.isfinite(loss_of({"kl": 1.0}, [[5.0, -5.0]], [[0.0, 1.0]], of=target("probabilities", 2)))


def test_mse_and_cosine_compare_what_clients_see() -> None:
    assert loss_of({"mse": 1.0}, [[1.0, 2.0]], [[0.0, 0.0]]) == pytest.approx(2.5)
    assert loss_of({"mse": 1.0}, [[0.0, 0.0]], [[0.25, 0.75]], of=target("probabilities", 2)) == pytest.approx(0.0625)
    assert loss_of({"cosine": 1.0}, [[1.0, 0.0]], [[0.0, 3.0]], of=target("vectors", 2)) == pytest.approx(1.0)
    assert loss_of({"cosine": 1.0}, [[2.0, 0.0]], [[1.0, 1.0]], of=target("vectors", 2)) == pytest.approx(
        1 - 1 / math.sqrt(2), abs=1e-6
    )


def test_numbers_are_learned_in_units_of_their_spread() -> None:
    of = target("numbers", 1, mean=(10.0,), spread=(2.0,))
    assert loss_of({"mse": 1.0}, [[0.0]], [[14.0]], of=of) == pytest.approx(4.0)
    assert finished(of, np.array([[2.0]])) == pytest.approx(14.0)


def test_vectors_of_any_length_are_learned_with_their_length() -> None:
    of = target("vectors", 2)
    assert usual_losses(of) == {"cosine": 1.0, "mse": 1.0}
    assert usual_losses(target("vectors", 2, unit=True)) == {"cosine": 1.0}
    far, near = (loss_of({"mse": 1.0}, [[3.0 * by, 4.0 * by]], [[300.0, 400.0]], of=of) for by in (1.0, 99.0))
    assert far == pytest.approx(0.99**2)
    assert near < 0.001


def test_labels_count_where_there_are_some() -> None:
    both = loss_of({"labels": 1.0}, [[0.0, LOG3], [9.0, 9.0]], [[0.0, 0.0], [0.0, 0.0]], labels=[1, -1])
    assert both == pytest.approx(-math.log(0.75), abs=1e-6)
    assert loss_of({"labels": 1.0}, [[0.0, LOG3]], [[0.0, 0.0]], labels=[-1]) == 0.0


def test_losses_are_added_by_their_weights() -> None:
    alone = {name: loss_of({name: 1.0}, [[0.2, 0.4]], [[0.0, LOG3]], labels=[1]) for name in ("kl", "mse", "labels")}
    mixed = loss_of({"kl": 0.5, "mse": 2.0, "labels": 3.0}, [[0.2, 0.4]], [[0.0, LOG3]], labels=[1])
    assert mixed == pytest.approx(0.5 * alone["kl"] + 2.0 * alone["mse"] + 3.0 * alone["labels"], abs=1e-5)


def test_without_torch_the_same_loss_and_a_true_slope() -> None:
    random = np.random.default_rng(0)
    raw, wanted = random.standard_normal((5, 3)), random.standard_normal((5, 3))
    labels = np.array([0, 2, -1, 1, 1])
    of = target("logits", 3)

    def numeric(values: np.ndarray) -> float:
        return cross(values, soft_targets(2.0, of, wanted), 2.0, labels, 0.7, 0.3)[0]

    expected = TorchLoss({"kl": 0.7, "labels": 0.3}, 2.0, of)(
        torch.from_numpy(raw), torch.from_numpy(wanted), torch.from_numpy(labels)
    )
    assert numeric(raw) == pytest.approx(float(expected), abs=1e-9)
    slope = cross(raw, soft_targets(2.0, of, wanted), 2.0, labels, 0.7, 0.3)[1]
    for place in ((0, 0), (1, 2), (2, 1), (4, 1)):
        step = np.zeros_like(raw)
        step[place] = 1e-6
        assert slope[place] == pytest.approx((numeric(raw + step) - numeric(raw - step)) / 2e-6, abs=1e-6)


def test_weights_are_read_and_zeros_left_away() -> None:
    assert parse_losses("kl=1, labels=0.5,mse=0") == {"kl": 1.0, "labels": 0.5}
    assert parse_losses("cosine") == {"cosine": 1.0}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kll=1", "there is no loss 'kll'"),
        ("kl=1,kl=2", "'kl' is given twice"),
        ("kl=much", "the weight of kl is 'much'"),
        ("kl=-1", "the weight of kl is '-1'"),
        ("kl=nan", "the weight of kl is 'nan'"),
        ("kl=0", "all weights are 0"),
        ("", "there is no loss ''"),
    ],
)
def test_what_is_no_loss_is_refused_with_the_form(text: str, told: str) -> None:
    with pytest.raises(SetupError, match=told) as caught:
        parse_losses(text)
    assert "kl=1,labels=0.5" in caught.value.message


def test_a_loss_that_does_not_suit_the_output_is_refused() -> None:
    with pytest.raises(SetupError, match="--loss kl is for classes, and 'y' is taken for vectors"):
        check_losses({"kl": 1.0}, target("vectors"), labelled=True)
    with pytest.raises(SetupError, match="--loss cosine needs several numbers"):
        check_losses({"cosine": 1.0}, target("numbers", 1), labelled=True)
    with pytest.raises(SetupError, match="--loss labels needs labels in the samples"):
        check_losses({"labels": 1.0}, target("logits"), labelled=False)
    for form in ("logits", "vectors", "numbers"):
        check_losses(usual_losses(target(form)), target(form), labelled=False)
