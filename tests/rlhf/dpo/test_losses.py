import math

import pytest
import torch

from rlhf.dpo.losses import hinge_loss, preference_losses, robust_loss, sigmoid_loss

LOSSES = [
    ("sigmoid", 0.0),
    ("sigmoid", 0.1),
    ("robust", 0.0),
    ("robust", 0.2),
    ("hinge", 0.0),
    ("ipo", 0.0),
]
LOGRATIOS = [(1.5, -0.5), (-2.0, -1.0), (0.0, 0.0), (-30.0, 20.0), (0.3, -40.0)]
LENGTHS = [(3, 5), (4, 1), (2, 2), (10, 7), (1, 6)]


def by_hand(chosen, rejected, sizes, loss, beta, smoothing):
    """The papers' formulas in plain floats."""
    m = beta * (chosen - rejected)
    right = math.log1p(math.exp(-m))  # -log of the chance that the better answer wins
    wrong = math.log1p(math.exp(m))
    if loss == "sigmoid":
        return (1 - smoothing) * right + smoothing * wrong
    if loss == "robust":
        return ((1 - smoothing) * right - smoothing * wrong) / (1 - 2 * smoothing)
    if loss == "hinge":
        return max(0.0, 1 - m)
    return (chosen / sizes[0] - rejected / sizes[1] - 1 / (2 * beta)) ** 2


@pytest.mark.parametrize(("loss", "smoothing"), LOSSES)
@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_losses_are_those_of_the_papers(loss, smoothing, beta):
    found = preference_losses(
        torch.tensor(LOGRATIOS, dtype=torch.float64).T,
        torch.tensor(LENGTHS).T,
        loss,
        beta,
        smoothing,
    )
    wanted = [
        by_hand(*ratios, sizes, loss, beta, smoothing)
        for ratios, sizes in zip(LOGRATIOS, LENGTHS, strict=True)
    ]
    assert found.tolist() == pytest.approx(wanted, rel=1e-12)


def test_values_worked_out_by_hand():
    # log-ratios 2 and -1 at beta 0.5: margin 1.5
    ratios, sizes = torch.tensor([[2.0], [-1.0]]), torch.tensor([[4], [2]])
    wanted = {
        ("sigmoid", 0.0): 0.201413,  # log(1 + e^-1.5)
        ("sigmoid", 0.1): 0.351413,  # and 0.1 * 1.5 more, since log s(m) - log s(-m) = m
        ("robust", 0.1): 0.013913,  # (0.9 * 0.201413 - 0.1 * 1.701413) / 0.8
        ("hinge", 0.0): 0.0,  # 1 - 1.5 < 0
        ("ipo", 0.0): 0.0,  # 2/4 - -1/2 = 1 = 1 / (2 * 0.5)
    }
    for (loss, smoothing), value in wanted.items():
        found = preference_losses(ratios, sizes, loss, 0.5, smoothing)
        assert found.item() == pytest.approx(value, abs=1e-5), loss


def test_the_mean_of_the_robust_loss_over_flipped_labels_is_the_true_ones():
    margins, flipped = torch.linspace(-4, 4, 9, dtype=torch.float64), 0.3
    mean = (1 - flipped) * robust_loss(margins, flipped) + flipped * robust_loss(-margins, flipped)
    torch.testing.assert_close(mean, sigmoid_loss(margins, 0.0))


def test_conservative_dpo_is_best_where_the_model_is_as_sure_as_the_labels_are():
    margin = torch.tensor([math.log(0.9 / 0.1)], requires_grad=True)
    sigmoid_loss(margin, 0.1).sum().backward()
    assert margin.grad.item() == pytest.approx(0.0, abs=1e-7)
    assert sigmoid_loss(margin + 1, 0.1) > sigmoid_loss(margin, 0.1) < sigmoid_loss(margin - 1, 0.1)


@pytest.mark.parametrize(("loss", "smoothing"), LOSSES)
def test_far_margins_stay_finite(loss, smoothing):
    ratios = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    losses = preference_losses(ratios, torch.ones(2, 2), loss, 0.1, smoothing)
    losses.sum().backward()
    assert torch.isfinite(losses).all()
    assert torch.isfinite(ratios.grad).all()


def test_a_met_hinge_has_no_gradient():
    margins = torch.tensor([0.5, 1.5], requires_grad=True)
    hinge_loss(margins).sum().backward()
    assert margins.grad.tolist() == [-1.0, 0.0]


def test_an_unknown_loss_is_named():
    with pytest.raises(ValueError, match=r"loss \(='kto'\) must be"):
        preference_losses(torch.zeros(2, 1), torch.ones(2, 1), "kto", 0.1, 0.0)
