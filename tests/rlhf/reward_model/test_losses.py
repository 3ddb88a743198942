import math

import numpy as np
import pytest
import torch

from rlhf.reward_model.losses import (
    bradley_terry,
    centring,
    mean_by_owner,
    normalisation,
    paired_with_ties,
    plackett_luce,
    score_gaps,
)


def loss_by_the_paper(scores, pairs, margins):
    """Ouyang et al. 2022, eq. 1, one pair at a time in Python's own floats."""
    losses = []
    for (better, worse), margin in zip(pairs, margins, strict=True):
        beats = 1.0 / (1.0 + math.exp(-(scores[better] - scores[worse] - margin)))
        losses.append(-math.log(beats))
    return losses


def test_hand_values():
    # gaps: 2 - 0 = 2, 0 - 2 = -2, 1 - 1 = 0
    # log(1 + e^-2) = 0.126928, log(1 + e^2) = 2.126928, log 2 = 0.693147
    scores = torch.tensor([2.0, 0.0, 1.0, 1.0])
    losses = bradley_terry(scores, torch.tensor([[0, 1], [1, 0], [2, 3]]))
    assert losses.tolist() == pytest.approx([0.126928, 2.126928, 0.693147], abs=1e-6)


def test_hand_value_of_a_margin():
    # 2 - 0 - 0.5 = 1.5 and log(1 + e^-1.5) = 0.201413; a lead equal to the margin costs log 2
    scores, pairs = torch.tensor([2.0, 0.0]), torch.tensor([[0, 1], [0, 1]])
    losses = bradley_terry(scores, pairs, torch.tensor([0.5, 2.0]))
    assert losses.tolist() == pytest.approx([0.201413, math.log(2)], abs=1e-6)


def test_equals_a_float64_loop():
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 3, 9)
    pairs = [(int(i), int(j)) for i, j in rng.integers(0, 9, (20, 2))]
    margins = rng.uniform(0, 2, 20)
    ours = bradley_terry(
        torch.tensor(scores), torch.tensor(pairs), torch.tensor(margins, dtype=torch.float64)
    )
    assert ours.tolist() == pytest.approx(loss_by_the_paper(scores, pairs, margins), rel=1e-12)


def test_gradient_is_the_chance_of_being_wrong():
    # d/d(better) of -log sigmoid(g) is -sigmoid(-g); the worse answer gets the opposite
    scores = torch.tensor([0.7, -0.4], dtype=torch.float64, requires_grad=True)
    bradley_terry(scores, torch.tensor([[0, 1]])).sum().backward()
    wrong = 1 / (1 + math.exp(1.1))
    assert scores.grad.tolist() == pytest.approx([-wrong, wrong], rel=1e-12)


def test_adding_a_constant_to_all_scores_changes_nothing():
    scores, pairs = torch.randn(6, dtype=torch.float64), torch.tensor([[0, 1], [4, 2], [3, 5]])
    moved = bradley_terry(scores + 37.5, pairs)
    torch.testing.assert_close(moved, bradley_terry(scores, pairs), rtol=0, atol=1e-12)


def test_all_pairs_of_a_ranking_equal_the_pairs_taken_alone():
    scores = torch.tensor([0.3, 1.2, -0.8, 0.1], dtype=torch.float64)
    pairs = torch.tensor([[i, j] for i in range(4) for j in range(i + 1, 4)])
    together = bradley_terry(scores, pairs)
    alone = [bradley_terry(scores[pair], torch.tensor([[0, 1]]))[0] for pair in pairs]
    torch.testing.assert_close(together, torch.stack(alone), rtol=0, atol=0)


def test_a_hopeless_pair_has_a_finite_loss():
    losses = bradley_terry(torch.tensor([-500.0, 500.0]), torch.tensor([[0, 1]]))
    assert losses.tolist() == [1000.0]


def test_score_gaps_are_positive_where_the_order_is_right():
    gaps = score_gaps(torch.tensor([3.0, 1.0]), torch.tensor([[0, 1], [1, 0]]))
    assert gaps.tolist() == [2.0, -2.0]


@pytest.mark.parametrize(
    ("scores", "pairs", "margins"),
    [
        (torch.zeros(2, 1), torch.tensor([[0, 1]]), None),
        (torch.zeros(2), torch.tensor([0, 1]), None),
        (torch.zeros(2), torch.tensor([[0, 1]]), torch.zeros(2)),
        (torch.zeros(2), torch.tensor([[0, 1]]), torch.tensor(0.5)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(scores, pairs, margins):
    with pytest.raises(ValueError, match="shape"):
        bradley_terry(scores, pairs, margins)


def test_smoothed_and_corrected_labels_by_hand():
    # Gap 2: l = log(1 + e^-2) = 0.126928, l' = log(1 + e^2) = 2.126928.
    # Smoothing 0.1: 0.9 l + 0.1 l' = 0.326928.  Noise 0.1: (0.9 l - 0.1 l') / 0.8 = -0.123072.
    scores, pairs = torch.tensor([2.0, 0.0]), torch.tensor([[0, 1]])
    assert bradley_terry(scores, pairs, smoothing=0.1).item() == pytest.approx(0.326928, abs=1e-6)
    assert bradley_terry(scores, pairs, noise_rate=0.1).item() == pytest.approx(-0.123072, abs=1e-6)
    with pytest.raises(ValueError, match="not both"):
        bradley_terry(scores, pairs, smoothing=0.1, noise_rate=0.1)


def test_the_corrected_loss_is_right_in_the_mean_over_noisy_labels():
    """A quarter of the labels turned round: the mean is the clean loss, plainly it is not."""
    scores = torch.tensor([1.3, -0.2], dtype=torch.float64)
    right, turned = torch.tensor([[0, 1]]), torch.tensor([[1, 0]])

    def mean(**noise: float) -> float:
        label, opposite = (bradley_terry(scores, p, **noise).item() for p in (right, turned))
        return 0.75 * label + 0.25 * opposite

    clean = bradley_terry(scores, right).item()
    assert mean(noise_rate=0.25) == pytest.approx(clean, rel=1e-12)
    assert mean() > clean + 0.1


def test_centring_by_hand():
    scores = torch.tensor([2.0, -1.0, 1.0])
    assert centring(scores, torch.tensor([[0, 1], [2, 1]])).tolist() == [1.0, 0.0]


def choices_by_the_book(scores, ranks):
    """Luce 1959: the chance of each choice from what is left, one after the other, in floats."""
    losses = []
    for own, rank in zip(scores, ranks, strict=True):
        if rank < max(ranks):
            left = sum(math.exp(s) for s, r in zip(scores, ranks, strict=True) if r >= rank)
            losses.append(-math.log(math.exp(own) / left))
    return sum(losses) / len(losses)


def test_plackett_luce_by_hand():
    # Scores log 2, log 3, log 5, ranked third, second, first: 5/10, then 3/5 of what is left.
    # (log 2 + log 5/3) / 2 = (0.693147 + 0.510826) / 2 = 0.601986
    scores = torch.tensor([2.0, 3.0, 5.0]).log()
    found = float(plackett_luce(scores, torch.tensor([3, 2, 1])))
    assert found == pytest.approx(0.601986, abs=1e-6)
    # The first two tie at the top: 2/10 and 3/10, each from all: (log 5 + log 10/3) / 2 = 1.406705
    tied = float(plackett_luce(scores, torch.tensor([1, 1, 2])))
    assert tied == pytest.approx(1.406705, abs=1e-6)


@pytest.mark.parametrize("ranks", [(1, 2, 3, 4), (3, 1, 4, 2), (1, 2, 2, 3), (2, 1, 1, 2)])
def test_plackett_luce_equals_a_float64_loop_and_does_not_see_the_order(ranks):
    scores = torch.tensor(np.random.default_rng(1).normal(0, 2, 4))
    wanted = choices_by_the_book(scores.tolist(), ranks)
    assert float(plackett_luce(scores, torch.tensor(ranks))) == pytest.approx(wanted, rel=1e-12)
    turned = [2, 0, 3, 1]
    again = plackett_luce(scores[turned], torch.tensor([ranks[i] for i in turned]))
    assert float(again) == pytest.approx(wanted, rel=1e-12)


def test_plackett_luce_of_two_is_bradley_terry():
    scores = torch.tensor([0.4, -1.3], dtype=torch.float64, requires_grad=True)
    pairs = torch.tensor([[1, 0]])
    one, two = plackett_luce(scores, torch.tensor([2, 1])), bradley_terry(scores, pairs)[0]
    assert float(one.detach()) == pytest.approx(float(two.detach()), rel=1e-12)
    gradients = [torch.autograd.grad(loss, scores)[0] for loss in (one, two)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_a_ranking_of_ties_is_refused():
    with pytest.raises(ValueError, match="ranks must differ"):
        plackett_luce(torch.zeros(3), torch.ones(3))


def test_each_rankings_pairs_are_averaged_apart():
    losses = torch.tensor([1.0, 3.0, 5.0, 7.0, 9.0])
    owners = torch.tensor([0, 0, 1, 1, 1])
    assert mean_by_owner(losses, owners, 2).tolist() == [2.0, 7.0]


@pytest.mark.detail(20)
def test_normalised_scores_have_mean_zero_and_variance_one():
    # mean (1 + 3 + 5) / 3 = 3; population variance (4 + 0 + 4) / 3 = 2.666667
    mean, std = normalisation(torch.tensor([1.0, 3.0, 5.0]))
    assert (mean, std) == pytest.approx((3.0, math.sqrt(8 / 3)), rel=1e-12)


@pytest.mark.parametrize(
    ("scores", "rule"),
    [
        (torch.tensor([1.0]), "at least two"),
        (torch.tensor([1.0, float("nan")]), "finite"),
        (torch.full((4,), 1e6), "differ"),
    ],
)
def test_scores_without_a_spread_can_not_be_normalised(scores, rule):
    with pytest.raises(ValueError, match=rule):
        normalisation(scores)


def test_top_k_by_hand():
    # Scores log 2, log 3, log 5, ranked third, second, first. The first choice alone: log 10/5.
    scores, ranks = torch.tensor([2.0, 3.0, 5.0]).log(), torch.tensor([3, 2, 1])
    assert float(plackett_luce(scores, ranks, top=1)) == pytest.approx(math.log(2), abs=1e-6)
    whole = float(plackett_luce(scores, ranks))
    assert float(plackett_luce(scores, ranks, top=2)) == whole
    assert float(plackett_luce(scores, ranks, top=9)) == whole


def test_one_choice_of_k_is_the_cross_entropy_of_a_softmax():
    scores = torch.tensor(np.random.default_rng(2).normal(0, 2, 5), requires_grad=True)
    found = plackett_luce(scores, torch.tensor([3, 1, 2, 5, 4]), top=1)
    wanted = torch.nn.functional.cross_entropy(scores[None], torch.tensor([1]))
    assert found.item() == pytest.approx(wanted.item(), rel=1e-12)
    one, other = (torch.autograd.grad(x, scores)[0] for x in (found, wanted))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)  # float64, another order of sums


def test_two_answers_are_bradley_terry_for_every_loss_of_rankings():
    scores = torch.tensor([0.4, -1.1], dtype=torch.float64)
    wanted = bradley_terry(scores, torch.tensor([[0, 1]])).item()
    for top in (None, 1, 2):
        found = plackett_luce(scores, torch.tensor([1, 2]), top).item()
        assert found == pytest.approx(wanted, rel=1e-12)


def chances_by_the_papers(first, second, rule, tie_rate):
    """P(first wins), P(second wins), P(tie) from the strengths e^s, as the papers write them."""
    p, q = math.exp(first), math.exp(second)
    if rule == "rao_kupper":
        theta = (1 + tie_rate) / (1 - tie_rate)
        tie = (theta**2 - 1) * p * q / ((p + theta * q) * (q + theta * p))
        return p / (p + theta * q), q / (q + theta * p), tie
    nu = 2 * tie_rate / (1 - tie_rate)
    total = p + q + nu * math.sqrt(p * q)
    return p / total, q / total, nu * math.sqrt(p * q) / total


NO_PAIRS = torch.zeros((0, 2), dtype=torch.int64)


@pytest.mark.parametrize("rule", ["rao_kupper", "davidson"])
@pytest.mark.parametrize("tie_rate", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("scores", [(0.0, 0.0), (1.3, -0.4), (-3.0, 2.0)])
def test_losses_with_ties_are_the_papers_and_their_chances_sum_to_one(rule, tie_rate, scores):
    given = torch.tensor(scores, dtype=torch.float64)
    wins, tied = paired_with_ties(
        given, torch.tensor([[0, 1], [1, 0]]), torch.tensor([[0, 1]]), rule, tie_rate
    )
    found = [*wins.neg().exp().tolist(), *tied.neg().exp().tolist()]
    assert found == pytest.approx(chances_by_the_papers(*scores, rule, tie_rate), rel=1e-12)
    assert sum(found) == pytest.approx(1.0, rel=1e-12)
    if scores[0] == scores[1]:
        assert found[2] == pytest.approx(tie_rate, rel=1e-12)


@pytest.mark.parametrize("rule", ["rao_kupper", "davidson"])
def test_where_equals_never_tie_it_is_bradley_terry(rule):
    scores, pairs = torch.tensor([0.4, -1.1, 2.0]).double(), torch.tensor([[0, 1], [1, 2], [2, 0]])
    found, none = paired_with_ties(scores, pairs, NO_PAIRS, rule, 1e-9)
    # the loss differs by about the tie rate itself; Davidson's by its share of z
    torch.testing.assert_close(found, bradley_terry(scores, pairs), rtol=0, atol=1e-8)
    assert none.shape == (0,)


@pytest.mark.parametrize("rule", ["rao_kupper", "davidson"])
def test_a_tie_draws_scores_together(rule):
    scores = torch.tensor([1.5, -0.5], dtype=torch.float64, requires_grad=True)
    _, tied = paired_with_ties(scores, NO_PAIRS, torch.tensor([[0, 1]]), rule, 0.3)
    tied.sum().backward()
    assert scores.grad[0] > 0 > scores.grad[1]
    assert scores.grad.sum().item() == pytest.approx(0.0, abs=1e-12)


def test_other_rules_and_rates_for_ties_are_refused():
    scores = torch.zeros(2)
    with pytest.raises(ValueError, match=r"rule \(=none\)"):
        paired_with_ties(scores, NO_PAIRS, NO_PAIRS, "none", 0.3)
    with pytest.raises(ValueError, match=r"tie_rate \(=0\)"):
        paired_with_ties(scores, NO_PAIRS, NO_PAIRS, "davidson", 0)
