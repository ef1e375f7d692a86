"""The fit loop, on a model small enough to see through."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from dfnb import UserError
from dfnb.detectors import training
from dfnb.detectors.schedule import Schedule
from dfnb.detectors.training import Diverged, NoGradient, balanced_loss, balanced_rows


class Brightness(nn.Module):
    """Linear in the mean colours of a 4 x 4 grid; with `unused`, a parameter without effect."""

    def __init__(self, unused: bool = False):
        super().__init__()
        self.linear = nn.Linear(48, 1)
        self.dropout = nn.Dropout(0.3)
        if unused:
            self.unused = nn.Linear(2, 2)

    def forward(self, pixels):
        cells = nn.functional.avg_pool2d(pixels, pixels.shape[-1] // 4).flatten(1)  # (n, 48)
        return self.linear(self.dropout(cells)).squeeze(-1)


@pytest.fixture
def fitted(clip, cued):
    """A function that fits a fresh model and returns it with its history."""

    def fit(seed=0, model=None, validation=cued[1], loss=training.plain_loss, **changes):
        torch.manual_seed(7)
        model = model or Brightness()
        schedule = Schedule(**{"epochs": 3, "patience": None, "lr": 0.01} | changes)
        return model, training.fit(model, cued[0], validation, clip=clip, schedule=schedule,
                                   seed=seed, loss=loss)

    return fit


def test_the_class_balanced_loss_equals_the_hand_computation():
    logits = torch.tensor([0.0, 0.0, 0.0, math.log(3)])
    labels = torch.tensor([0, 0, 0, 1])
    # reals: -log(1/2) each, mean log 2; the fake: -log(3/4); their mean
    expected = (math.log(2) + math.log(4 / 3)) / 2
    assert balanced_loss(logits, labels).item() == pytest.approx(expected)
    assert balanced_loss(logits[2:], labels[2:]).item() == pytest.approx(expected)  # one real alone
    assert balanced_loss(logits[:3], labels[:3]).item() == pytest.approx(math.log(2))


def test_batches_are_balanced_and_use_a_class_up_before_repeating_it():
    labels = np.array([0] * 4 + [1] * 12)
    batches = list(itertools.islice(balanced_rows(labels, 8, np.random.default_rng(0)), 3))
    assert [np.bincount(labels[rows]).tolist() for rows in batches] == [[4, 4]] * 3
    rows = np.concatenate(batches)
    assert np.bincount(rows, minlength=16).tolist() == [3] * 4 + [1] * 12
    odd = next(balanced_rows(labels, 5, np.random.default_rng(0)))
    assert labels[odd].sum() == 3


def test_the_rate_rises_over_the_warm_up_and_falls_to_zero_or_a_floor():
    to_zero, to_floor = ([schedule.factor(step, 20) for step in range(21)] for schedule in (
        Schedule(warmup=0.2), Schedule(lr=0.01, floor=0.001, warmup=0.2)))
    assert to_zero[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert [to_zero[12], to_zero[20]] == pytest.approx([0.5, 0])
    assert all(before > after for before, after in itertools.pairwise(to_zero[4:]))
    assert [to_floor[4], to_floor[12], to_floor[20]] == pytest.approx([1, 0.55, 0.1])


def test_sgd_steps_along_the_gradient_with_momentum(fitted):
    model = Brightness()
    model.dropout.p = 0.0
    seen = []

    def loss(model, inputs, labels):  # the gradient of the bias is 1, of the weights 0
        seen.append(model.linear.bias.item())
        return model.linear.bias.sum() + 0 * model.linear.weight.sum(), model(inputs), {}

    fitted(model=model, loss=loss, optimiser="sgd", lr=0.5, floor=0.5, warmup=0, epochs=1,
           weight_decay=0)
    assert np.diff(seen) == pytest.approx([-0.5, -0.5 * 1.9])


def test_another_loss_is_what_is_minimised(fitted):
    def swapped(model, inputs, labels):
        return training.plain_loss(model, inputs, 1 - labels)

    (plain, _), (other, history) = fitted(), fitted(loss=swapped)
    assert not torch.equal(plain.linear.weight, other.linear.weight)
    # of the logits that the loss gave, against the true labels
    assert history[-1]["train_auc"] < 0.5


def test_steps_are_fixed_whatever_the_amount_of_data():
    assert Schedule(epochs=3, batch=32).lengths(70) == [3, 3, 3]
    assert Schedule(epochs=3, steps=10).lengths(70) == Schedule(epochs=3, steps=10).lengths(7000)
    assert sum(Schedule(epochs=3, steps=10).lengths(70)) == 10


def test_the_global_random_state_is_left_alone(clip):
    state = torch.random.get_rng_state()
    with training.seeded(1, clip.device):
        torch.rand(10)
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_loss_falls_on_a_learnable_cue(fitted):
    _, history = fitted(epochs=6)
    assert history[-1]["loss"] < history[0]["loss"]
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5, 6]
    assert [row["steps"] for row in history] == [3, 6, 9, 12, 15, 18]


def test_early_stop_restores_the_best_epoch(fitted, monkeypatch):
    seen, aucs, model = [], iter([0.6, 0.9, 0.7, 0.8, 1.0]), Brightness()

    def judge(scores, labels):
        seen.append(model.linear.weight.detach().clone())
        return {"validation_auc": next(aucs), "validation_loss": 1.0}

    monkeypatch.setattr(training, "judge", judge)
    _, history = fitted(model=model, epochs=5, patience=2)
    assert [row["best"] for row in history] == [False, True, False, False]
    assert torch.equal(model.linear.weight, seen[1]) and not torch.equal(seen[1], seen[3])
    assert not model.training


def test_of_equal_aucs_the_lower_loss_is_better():
    rows = [{"validation_auc": auc, "validation_loss": loss}
            for auc, loss in ((0.9, 0.1), (1, 0.5), (1, 0.4))]
    assert max(rows, key=training.merit) is rows[2]


def test_mirroring_changes_training_but_not_prediction(fitted, clip, cued):
    (plain, _), (flipped, _) = fitted(), fitted(flip=True)
    assert not torch.equal(plain.linear.weight, flipped.linear.weight)
    first, second = (training.predict(plain, cued[2], clip) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_predictions_are_probabilities_in_the_order_of_the_view(clip, cued):
    model, order = Brightness(), np.random.default_rng(0).permutation(32)
    scores = training.predict(model, cued[2], clip)
    assert scores.dtype == np.float32 and scores.shape == (32,)
    assert ((scores > 0) & (scores < 1)).all()
    shuffled = training.predict(model, cued[2].select(order), clip)
    np.testing.assert_allclose(shuffled, scores[order], atol=1e-6)


class Breaking(Brightness):
    """Its logits become infinite at one step, or undefined once it is scored."""

    def __init__(self, step: int | None = None):
        super().__init__()
        self.step, self.calls = step, 0

    def forward(self, pixels):
        self.calls += 1
        broken = math.nan if not self.training else math.inf if self.calls == self.step else 1
        return super().forward(pixels) * broken


@pytest.mark.parametrize(("step", "message"), [
    (3, r"diverged at step 3: the loss is \w+; lower learning_rate \(it was 0.01\)"),
    (None, "a validation score is nan")])  # the last step broke the weights
def test_divergence_is_a_sentence(fitted, step, message):
    with pytest.raises(Diverged, match=message):
        fitted(model=Breaking(step))


def test_a_parameter_without_a_gradient_is_named(fitted):
    message = "2 trainable parameters get no gradient: unused.weight, unused.bias"
    with pytest.raises(NoGradient, match=message):
        fitted(model=Brightness(unused=True))


def test_frozen_parameters_stay_as_they_are(fitted):
    model = Brightness(unused=True)
    model.unused.requires_grad_(False)
    before = model.unused.weight.clone()
    fitted(model=model)
    assert torch.equal(model.unused.weight, before) and model.unused.weight.grad is None


def test_a_part_with_one_class_is_refused(fitted, cued):
    reals = cued[1].select(cued[1].labels == 0)
    message = f"validation needs crops of both classes, it has {len(reals)} real and 0"
    with pytest.raises(UserError, match=message):
        fitted(validation=reals)


@pytest.mark.parametrize(("options", "message"), [
    ({"epochs": 0}, "epochs must be at least 1, got 0"),
    ({"batch": 1}, "batch must be at least 2, got 1"),
    ({"lr": 0.0}, "learning_rate must be a positive number, got 0.0"),
    ({"lr": math.nan}, "learning_rate must be a positive number, got nan"),
    ({"steps": 2, "epochs": 3}, "steps must be at least 3, got 2"),
    ({"warmup": 1.0}, r"must lie in \[0, 1\), got 1.0"),
    ({"weight_decay": -1}, "weight_decay must be at least 0, got -1"),
    ({"patience": 0}, "patience must be at least 1, got 0"),
    ({"floor": 0.01}, "floor must lie between 0 and the learning rate 0.001, got 0.01"),
    ({"optimiser": "adam"}, "optimiser must be adamw or sgd, got 'adam'")])
def test_a_senseless_schedule_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        Schedule(**options)


class Costly(torch.autograd.Function):
    """The identity, whose gradient needs memory: there is some for `Costly.room` crops."""

    room = 10**9

    @staticmethod
    def forward(ctx, inputs):
        return inputs.clone()

    @staticmethod
    def backward(ctx, gradient):
        if len(gradient) > Costly.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return gradient


@pytest.mark.parametrize("room", [16, 9, 1])
def test_a_batch_that_does_not_fit_is_learnt_in_pieces_with_the_same_result(
        fitted, monkeypatch, room):
    class Model(Brightness):
        def forward(self, pixels):
            return Costly.apply(super().forward(pixels))

    def fit():
        torch.manual_seed(7)
        model = Model()
        model.dropout.p = 0.0
        return fitted(model=model, batch=32)

    whole, history = fit()
    monkeypatch.setattr(Costly, "room", room)
    message = "32 crops at once do not fit into the GPU's memory; going on with 16"
    with pytest.warns(UserWarning, match=message):
        pieces, history_of_pieces = fit()
    torch.testing.assert_close(pieces.linear.weight, whole.linear.weight, rtol=0, atol=1e-6)
    for one, other in zip(history, history_of_pieces, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_scores_that_do_not_fit_are_computed_in_halves(clip, cued, monkeypatch):
    model = Brightness()
    expected, forward = training.predict(model, cued[2], clip), model.forward

    def small(pixels):
        if len(pixels) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(pixels)

    monkeypatch.setattr(model, "forward", small)
    with pytest.warns(UserWarning, match="going on with 4 at once"):
        scores = training.predict(model, cued[2], clip)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)
