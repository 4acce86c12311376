"""Losses and activation functions: their equations, their derivatives, and what they do at the extremes."""

import json
import re
from fractions import Fraction
from pathlib import Path

import autograd
import autograd.numpy as anp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import sparse, special

from minidiff import check_gradient, compiled, gradient, hessian, param, params, train, withgradient
from minidiff.functions import elu, gelu, leakyrelu, logsoftmax, logsumexp, relu, sigmoid, softmax, softplus
from minidiff.losses import (
    binarycrossentropy,
    crossentropy,
    hinge_loss,
    huber_loss,
    kldivergence,
    logitbinarycrossentropy,
    logitcrossentropy,
    mae,
    mse,
    poisson_loss,
)
from minidiff.optimise import Descent

ELEMENTWISE = [
    mse,
    mae,
    huber_loss,
    binarycrossentropy,
    logitbinarycrossentropy,
    poisson_loss,
    hinge_loss,
]
OF_CLASSES = [crossentropy, logitcrossentropy, kldivergence]
FUNCTIONS = [relu, leakyrelu, elu, gelu, sigmoid, softplus, softmax, logsoftmax]


def same(losses):
    return losses


def probabilities(shape, seed):
    e = np.random.default_rng(seed).uniform(0.1, 1, shape)
    return e / e.sum(-1, keepdims=True)


def numerical(f, x, h=1e-6):
    """The gradient of the number f(x), by central differences."""
    g = np.zeros(x.shape)
    for i in np.ndindex(x.shape):
        e = np.zeros(x.shape)
        e[i] = h
        g[i] = (f(x + e) - f(x - e)) / (2 * h)
    return g


# Equations ----------------------------------------------------------------------------------------

EQUATIONS = [
    (mse, lambda ŷ, y: (ŷ - y) ** 2),
    (mae, lambda ŷ, y: abs(ŷ - y)),
    (huber_loss, lambda ŷ, y: np.where(abs(ŷ - y) <= 1, (ŷ - y) ** 2 / 2, abs(ŷ - y) - 0.5)),
    (crossentropy, lambda ŷ, y: -(y * np.log(ŷ)).sum(-1)),
    (logitcrossentropy, lambda ŷ, y: -(y * np.log(np.exp(ŷ) / np.exp(ŷ).sum(-1, keepdims=True))).sum(-1)),
    (binarycrossentropy, lambda ŷ, y: -y * np.log(ŷ) - (1 - y) * np.log(1 - ŷ)),
    (
        logitbinarycrossentropy,
        lambda ŷ, y: -y * np.log(1 / (1 + np.exp(-ŷ))) - (1 - y) * np.log(1 - 1 / (1 + np.exp(-ŷ))),
    ),
    (kldivergence, lambda ŷ, y: (y * np.log(y / ŷ)).sum(-1)),
    (poisson_loss, lambda ŷ, y: ŷ - y * np.log(ŷ)),
    (hinge_loss, lambda ŷ, y: np.maximum(0, 1 - ŷ * y)),
]


@pytest.mark.parametrize(("loss", "equation"), EQUATIONS)
@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 4, 3), (1, 1), (5, 1), (5, 2)])
def test_a_loss_is_its_equation(loss, equation, shape):
    if loss in OF_CLASSES and shape[-1] == 1:
        return
    ŷ, y = probabilities(shape, 0) * 0.9, probabilities(shape, 1) * 0.9
    each = equation(ŷ, y)
    np.testing.assert_allclose(loss(ŷ, y, agg=same), each, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(loss(ŷ, y, agg=np.sum), each.sum(), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(loss(ŷ, y), each.mean(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("agg", [np.mean, np.sum])
@pytest.mark.parametrize("loss", [loss for loss, _ in EQUATIONS])
def test_the_gradient_of_a_loss_is_its_derivative_for_prediction_and_target(loss, agg):
    ŷ, y = 3 * probabilities((4, 3), 2) - 0.05, probabilities((4, 3), 3)
    if loss in (crossentropy, binarycrossentropy, kldivergence):
        ŷ = ŷ / 4
    dŷ, dy = gradient(lambda ŷ, y: loss(ŷ, y, agg=agg), ŷ, y)
    np.testing.assert_allclose(dŷ, numerical(lambda ŷ: loss(ŷ, y, agg=agg), ŷ), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(dy, numerical(lambda y: loss(ŷ, y, agg=agg), y), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("loss", [loss for loss, _ in EQUATIONS])
def test_the_second_derivative_of_a_loss_is_the_derivative_of_its_gradient(loss):
    ŷ, y = 0.1 + probabilities(3, 4) / 2, probabilities(3, 5)
    H = hessian(lambda ŷ: loss(ŷ, y, agg=np.sum), ŷ)
    for i in range(3):
        row = numerical(lambda ŷ, i=i: gradient(lambda ŷ: loss(ŷ, y, agg=np.sum), ŷ)[0][i], ŷ)
        np.testing.assert_allclose(H[i], row, rtol=1e-5, atol=1e-7)


@given(
    arrays(np.float64, array_shapes(max_dims=3, max_side=4), elements=st.floats(-50, 50)), st.floats(0.1, 10)
)
def test_huber_is_quadratic_up_to_delta_and_linear_beyond(e, delta):
    expected = np.where(abs(e) <= delta, e**2 / 2, delta * (abs(e) - delta / 2))
    np.testing.assert_allclose(huber_loss(e, 0.0, delta=delta, agg=same), expected, rtol=1e-12, atol=1e-12)


@given(
    arrays(np.float64, (3, 4), elements=st.floats(-30, 30)),
    st.lists(st.integers(0, 3), min_size=3, max_size=3),
)
def test_the_logit_losses_are_the_plain_ones_of_softmax_and_sigmoid(scores, labels):
    exact = logitcrossentropy(scores, labels, agg=same)
    np.testing.assert_allclose(crossentropy(softmax(scores), labels, epsilon=0, agg=same), exact, atol=1e-10)
    bits = np.eye(4)[labels]
    exact = logitbinarycrossentropy(scores, bits, agg=same)
    plain = (
        binarycrossentropy(sigmoid(scores), bits, epsilon=0, agg=same) if abs(scores).max() < 20 else exact
    )
    np.testing.assert_allclose(plain, exact, rtol=1e-6, atol=1e-7)


@given(
    arrays(np.float64, (2, 5), elements=st.floats(0, 1).map(lambda p: 0.0 if p < 1e-3 else p)).filter(
        lambda p: p.any(-1).all()
    )
)
def test_the_divergence_of_a_distribution_from_itself_is_zero_and_from_others_positive(p):
    p = p / p.sum(-1, keepdims=True)
    np.testing.assert_allclose(kldivergence(p, p, epsilon=0, agg=same), 0, atol=1e-15)
    assert np.all(kldivergence(np.full((2, 5), 0.2), p, epsilon=0, agg=same) > -1e-12)


def test_errors_of_complex_predictions_count_by_their_modulus():
    ŷ, y = np.array([3 + 4j, 1j]), np.array([0j, 0j])
    np.testing.assert_allclose(mse(ŷ, y, agg=same), [25, 1])
    np.testing.assert_allclose(mae(ŷ, y, agg=same), [5, 1])
    z = param(ŷ)
    np.testing.assert_allclose(gradient(lambda: mse(z, y, agg=np.sum), params(z))[z], 2 * ŷ)


# Targets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", OF_CLASSES)
@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
@pytest.mark.parametrize("dtype", [np.int64, np.uint8, bool, np.float32])
def test_class_numbers_mean_the_same_as_one_hot_rows(loss, shape, dtype):
    ŷ = probabilities((*shape, 4), 6)
    numbers = np.random.default_rng(7).integers(0, 4, shape)
    hot = np.eye(4, dtype=dtype)[numbers]
    np.testing.assert_array_equal(loss(ŷ, numbers, agg=same), loss(ŷ, hot, agg=same))


@pytest.mark.parametrize("loss", OF_CLASSES)
@pytest.mark.parametrize("wrong", [[0, 4], [-1, 0], np.array([0, 255], np.uint8)])
def test_a_number_that_is_no_class_is_refused(loss, wrong):
    with pytest.raises(ValueError, match=r"from 0 to 3, got (4|-1|255)"):
        loss(np.full((2, 4), 0.25), wrong)


@pytest.mark.parametrize("loss", ELEMENTWISE)
@pytest.mark.parametrize(
    "shapes", [((4, 1), (4,)), ((4,), (4, 1)), ((2, 3), (3,)), ((3,), (1,)), ((2,), (3,))]
)
def test_shapes_that_numpy_would_broadcast_are_refused_by_name(loss, shapes):
    with pytest.raises(ValueError, match="same shape") as error:
        loss(*(np.full(shape, 0.5) for shape in shapes))
    assert all(str(shape) in str(error.value) for shape in shapes)


@pytest.mark.parametrize("loss", OF_CLASSES)
@pytest.mark.parametrize("shapes", [((4, 1), (4,)), ((4,), (4, 1)), ((2, 3), (3,)), ((), ()), ((2, 3), ())])
def test_targets_without_the_axis_of_classes_are_refused(loss, shapes):
    with pytest.raises(ValueError, match="same shape") as error:
        loss(*(np.full(shape, 0.5) for shape in shapes))
    assert all(str(shape) in str(error.value) for shape in shapes)


@pytest.mark.parametrize("loss", ELEMENTWISE)
def test_a_number_is_the_target_of_every_sample(loss):
    ŷ = probabilities((3, 2), 8)
    np.testing.assert_array_equal(loss(ŷ, 1, agg=same), loss(ŷ, np.ones((3, 2)), agg=same))
    np.testing.assert_array_equal(loss(0.5, ŷ, agg=same), loss(np.full((3, 2), 0.5), ŷ, agg=same))


@pytest.mark.parametrize("loss", ELEMENTWISE + OF_CLASSES)
def test_integers_and_lists_are_numbers_like_others(loss):
    ŷ, y, dtypes = [[1, 0], [0, 1]], [[1, 0], [1, 0]], (int, np.uint8, bool)
    if loss is poisson_loss:
        ŷ, dtypes = [[1, 2], [3, 1]], (int, np.uint8)
    if loss is hinge_loss:
        y, dtypes = [[1, -1], [1, 1]], (int, np.int8)
    exact = loss(np.array(ŷ, float), np.array(y, float), agg=same)
    for dtype in dtypes:
        np.testing.assert_array_equal(loss(np.array(ŷ, dtype), np.array(y, dtype), agg=same), exact)
    np.testing.assert_array_equal(loss(ŷ, y, agg=same), exact)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("loss", ELEMENTWISE + OF_CLASSES)
def test_the_dtype_of_the_prediction_stays_with_targets_that_are_integers_or_lists(loss, dtype):
    ŷ = param(probabilities((2, 2), 9), dtype)
    targets = ([[1, 0], [0, 1]], np.eye(2, dtype=np.int64), np.eye(2, dtype=bool), np.eye(2, dtype=dtype))
    if loss is hinge_loss:
        targets = ([[1, -1], [-1, 1]], 2 * np.eye(2, dtype=np.int64) - 1, 2 * np.eye(2, dtype=dtype) - 1)
    for y in (*targets, targets[-1].tolist()):
        assert loss(ŷ, y).dtype == dtype
        assert gradient(lambda y=y: loss(ŷ, y), params(ŷ))[ŷ].dtype == dtype


def test_a_nonsensical_delta_is_refused():
    with pytest.raises(ValueError, match="delta must be positive"):
        huber_loss(1.0, 0.0, delta=0)


@pytest.mark.parametrize(
    "y",
    [
        [1, 0, 1],
        [1.0, 0.0, 1.0],
        np.array([True, True, True]),
        [True, False, True],
        [1, 2, 1],
        [1.0, -3.0, -1],
    ],
)
def test_a_hinge_loss_refuses_targets_in_another_coding(y):
    ŷ = np.array([2.0, -2.0, 0.5])
    with pytest.raises(ValueError, match=r"−1 or 1, got (0|2|-3|booleans): .* write 2 \* y - 1"):
        hinge_loss(ŷ, y)
    assert hinge_loss(ŷ, 2 * np.array([1, 0, 1]) - 1) == pytest.approx(1 / 6)


@pytest.mark.parametrize(
    ("loss", "y", "says"),
    [
        (binarycrossentropy, [-1, 1], r"in \[0, 1\]: of −1 and 1, write \(y \+ 1\) / 2; got -1"),
        (logitbinarycrossentropy, [-1.0, 1.0], r"got -1"),
        (logitbinarycrossentropy, [0, 2], r"got 2"),
        (logitcrossentropy, [-1, 1], r"probabilities, in \[0, 1\].*got -1"),
        (crossentropy, [0, 255], r"got 255"),
        (kldivergence, [-0.5, 1.5], r"got -0.5"),
        (poisson_loss, [3, -1], r"counts, at least 0; got -1"),
    ],
)
def test_targets_in_another_coding_are_refused_and_nan_is_not_hidden(loss, y, says):
    with pytest.raises(ValueError, match=f"targets must be .*{says}"):
        loss(np.array([0.5, 0.5]), y)
    with np.errstate(invalid="ignore"):
        assert np.isnan(loss(np.array([0.5, 0.5]), [np.nan, 1.0]))


@pytest.mark.parametrize("loss", OF_CLASSES)
def test_a_yes_or_no_is_not_taken_for_classes(loss):
    yes = np.array([0, 1, 1, 0])
    column = np.full((4, 1), 0.25)
    for y in (np.zeros(4, int), yes[:, None], yes[:, None] > 0, np.ones((4, 1))):
        with pytest.raises(ValueError, match=r"\(4, 1\) have one class .* take logitbinarycrossentropy"):
            loss(column, y)
    for y in (yes, yes > 0, yes.astype(float), yes.tolist(), 0 * yes):
        with pytest.raises(ValueError, match=r"sum to 1 .* got a sum of [02].* take logitbinarycrossentropy"):
            loss(column[:, 0], y)
    several, rows = np.array([[1, 0, 1], [0, 1, 0]]), np.full((2, 3), 0.25)
    with pytest.raises(ValueError, match="sum to 1"):
        loss(rows, several)
    for advised in (logitbinarycrossentropy, binarycrossentropy):
        assert advised(column[:, 0], yes) > 0
        assert advised(rows, several) > 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("loss", [crossentropy, kldivergence])
def test_what_is_no_probability_is_refused_and_rounding_is_not(loss, dtype):
    scores = np.random.default_rng(0).normal(scale=9, size=(50, 100))
    p = softmax(scores.astype(dtype)) * dtype(1.002)
    assert np.isfinite(loss(p, np.zeros(50, int)))
    assert np.isfinite(loss(p, softmax(scores.astype(dtype))))
    for score in (2.0, -1.0):
        with pytest.raises(ValueError, match=rf"predictions must be in \[0, 1\].* got {score}"):
            loss(np.array([[0.5, score]], dtype), [0])
    f = compiled(lambda p: loss(p, [0]))
    f(np.array([[0.5, 0.5]], dtype))
    with pytest.raises(ValueError, match=r"got 2\.0"):
        f(np.array([[0.5, 2.0]], dtype))


@pytest.mark.parametrize("loss", OF_CLASSES)
def test_labels_of_another_kind_are_told_what_makes_class_numbers_of_them(loss):
    ŷ, names, floats = np.full((3, 2), 0.5), ["no", "yes", "no"], np.array([0.0, 1.0, 0.0])
    right = loss(ŷ, [0, 1, 0])
    for wrong, words, mended in [
        (names, "np.unique(labels, return_inverse=True)[1]", np.unique(names, return_inverse=True)[1]),
        (floats, "labels.astype(int)", floats.astype(int)),
        (floats > 0, "labels.astype(int)", (floats > 0).astype(int)),
        (floats[:, None].astype(int), "labels[..., 0]", floats[:, None].astype(int)[:, 0]),
    ]:
        with pytest.raises(ValueError, match="class numbers") as error:
            loss(ŷ, wrong)
        assert words in str(error.value)
        assert loss(ŷ, mended) == right


@pytest.mark.parametrize("loss", ELEMENTWISE)
def test_targets_that_are_no_numbers_are_refused_with_what_makes_numbers_of_them(loss):
    names, ŷ = ["no", "yes", "no"], np.array([0.5, 0.5, 0.5])
    for wrong in (names, np.array(names), np.array(names, object)):
        with pytest.raises(TypeError, match=r"target must be numbers.* np\.unique"):
            loss(ŷ, wrong)
    numbers = np.unique(names, return_inverse=True)[1]
    assert np.isfinite(loss(ŷ, 2 * numbers - 1 if loss is hinge_loss else numbers))


@pytest.mark.parametrize("loss", [*OF_CLASSES, *ELEMENTWISE])
def test_a_wrong_way_to_aggregate_is_told(loss):
    for agg in ("sum", 3, None):
        with pytest.raises(TypeError, match=r"agg must be a function, such as np\.sum, got "):
            loss(np.full((2, 2), 0.5), np.full((2, 2), 0.5), agg=agg)


def test_a_column_beside_a_vector_says_which_to_flatten():
    column, vector = np.full((3, 1), 0.5), np.full(3, 0.5)
    for ŷ, y, cure in ((column, vector, "ŷ[..., 0]"), (vector, column, "y[..., 0]")):
        with pytest.raises(ValueError, match=re.escape(f"take {cure}")):
            mse(ŷ, y)


def test_one_target_of_several_predictions_is_broadcast_by_hand():
    ŷ, y = np.zeros((5, 4, 1)), np.arange(4.0)[:, None]
    with pytest.raises(ValueError, match=r"same shape.*np\.broadcast_to\(y, ŷ\.shape\)"):
        mse(ŷ, y)
    assert mse(ŷ, np.broadcast_to(y, ŷ.shape)) == 3.5


# Weights, ignored labels, smoothing ---------------------------------------------------------------

TORCH = json.loads((Path(__file__).parent / "golden" / "torch.json").read_text())["cross_entropy"]


@pytest.mark.parametrize("loss", [logitcrossentropy, crossentropy])
@pytest.mark.parametrize("agg", [np.mean, np.sum, same])
@pytest.mark.parametrize("options", ["plain", "weights", "smoothing", "both"])
def test_cross_entropies_are_pytorchs(loss, agg, options):
    kind = {np.mean: "mean", np.sum: "sum", same: "none"}[agg]
    case = TORCH["cases"][f"{options} {kind}"]
    chosen = {"ignore": -100, "agg": agg}
    if options in ("weights", "both"):
        chosen["weights"] = TORCH["weights"]
    if options in ("smoothing", "both"):
        chosen["smoothing"] = 0.2
    f = lambda z: loss(z if loss is logitcrossentropy else softmax(z), np.array(TORCH["labels"]), **chosen)
    scores = np.array(TORCH["scores"])
    np.testing.assert_allclose(f(scores), case["loss"], rtol=1e-12, atol=1e-14)
    (g,) = gradient(lambda z: np.sum(f(z)), scores)
    np.testing.assert_allclose(g, case["gradient"], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("loss", [loss for loss, _ in EQUATIONS])
@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 4, 3)])
def test_weights_of_samples_weigh_their_losses_and_the_mean(loss, shape):
    ŷ, y = probabilities(shape, 0) * 0.9, probabilities(shape, 1) * 0.9
    y = y / y.sum(-1, keepdims=True)
    each = loss(ŷ, y, agg=same)
    w = np.random.default_rng(3).uniform(0.5, 2, shape[:1] if each.ndim else ())
    full = np.broadcast_to(w.reshape(w.shape + (1,) * (each.ndim - w.ndim)), each.shape)
    if not (loss in (crossentropy, logitcrossentropy) and shape == (3,)):
        np.testing.assert_allclose(loss(ŷ, y, weights=w, agg=same), full * each, rtol=1e-12)
        np.testing.assert_allclose(loss(ŷ, y, weights=w), np.average(each, weights=full), rtol=1e-12)
    np.testing.assert_allclose(loss(ŷ, y, weights=2.0, agg=np.sum), 2 * each.sum(), rtol=1e-12)
    np.testing.assert_allclose(loss(ŷ, y, weights=2.0), each.mean(), rtol=1e-12)
    (g,) = gradient(lambda ŷ: loss(ŷ, y, weights=2.0), ŷ)
    np.testing.assert_allclose(g, gradient(lambda ŷ: loss(ŷ, y), ŷ)[0], rtol=1e-10)


def test_a_weight_of_zero_leaves_a_sample_out_and_of_two_counts_it_twice():
    rng = np.random.default_rng(0)
    z, y = rng.standard_normal((4, 3)), np.array([0, 2, 1, 1])
    twice = [0, 1, 1, 3]
    for loss in (logitcrossentropy, lambda z, y, **k: mse(z[:, 0], y, **k)):
        np.testing.assert_allclose(loss(z, y, weights=[1, 2, 0, 1]), loss(z[twice], y[twice]), rtol=1e-12)


def test_class_weights_of_soft_targets_weigh_within_the_sum_and_both_kinds_multiply():
    ŷ, y, w, v = probabilities((4, 3), 1), probabilities((4, 3), 2), np.array([1.0, 2.0, 0.5]), np.arange(4.0)
    each = -np.sum(w * y * np.log(ŷ), -1)
    np.testing.assert_allclose(crossentropy(ŷ, y, weights=w, agg=same, epsilon=0), each, rtol=1e-12)
    expected = each.sum() / np.sum(w * y)
    np.testing.assert_allclose(crossentropy(ŷ, y, weights=w, epsilon=0), expected, rtol=1e-12)
    both = crossentropy(ŷ, y, weights=w * v[:, None], agg=same, epsilon=0)
    np.testing.assert_allclose(both, v * each, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_options_keep_the_dtype_and_ignored_samples_may_hold_anything(dtype):
    z = np.array([[1.0, 2.0, 3.0], [np.nan, np.inf, 0.0], [0.0, 1.0, 0.0]], dtype)
    y = np.array([2, -1, 0])
    f = lambda z, y: logitcrossentropy(z, y, ignore=-1, weights=[1.0, 2.0, 3.0], smoothing=0.1)
    with pytest.raises(ValueError, match="may be of 3 samples or of 3 classes"):
        f(z, y)
    f = lambda z, y: logitcrossentropy(z, y, ignore=-1, weights=[[1.0, 2.0, 3.0]], smoothing=0.1)
    assert f(z, y).dtype == dtype
    np.testing.assert_allclose(f(z, y), f(z[[0, 2]], y[[0, 2]]), rtol=1e-3)
    (g,) = gradient(lambda z: f(z, y), z)
    assert g.dtype == dtype
    assert (g[1] == 0).all()
    assert logitbinarycrossentropy(z[0], [0, 1, 1], weights=[1, 2, 3], smoothing=0.1).dtype == dtype


@pytest.mark.parametrize(("loss", "of"), [(binarycrossentropy, sigmoid), (logitbinarycrossentropy, same)])
def test_smoothed_binary_targets_are_nearer_to_a_half(loss, of):
    z, y = np.array([0.3, -1.0, 2.0]), np.array([1, 0, 1])
    np.testing.assert_allclose(loss(of(z), y, smoothing=0.2), loss(of(z), [0.9, 0.1, 0.9]), rtol=1e-12)


def test_the_focal_loss_is_an_aggregate():
    z, y, γ = np.random.default_rng(0).standard_normal((5, 3)), np.array([0, 1, 2, 2, 1]), 2
    p = softmax(z)[np.arange(5), y]
    focal = logitcrossentropy(z, y, agg=lambda losses: np.mean((1 - np.exp(-losses)) ** γ * losses))
    np.testing.assert_allclose(focal, np.mean(-((1 - p) ** γ) * np.log(p)), rtol=1e-12)


SCORES = np.zeros((4, 3))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: mse(SCORES, SCORES, weights=np.ones(3)),
            ValueError,
            r"broadcast to the shape \(4, 3\), got",
        ),
        (lambda: mse(SCORES, SCORES, weights=np.ones((1, 4, 3))), ValueError, "weights must be one for each"),
        (lambda: mse(SCORES, SCORES, weights=[1, 1, 1, -1]), ValueError, "at least 0, got -1"),
        (lambda: logitcrossentropy(SCORES, [0] * 4, weights=np.ones(5)), ValueError, "weights must be"),
        (lambda: logitcrossentropy(SCORES, SCORES, ignore=-1), ValueError, "ignore is a class number"),
        (lambda: logitcrossentropy(SCORES, [0] * 4, ignore="x"), TypeError, "ignore must be an integer"),
        (lambda: logitcrossentropy(SCORES, [0, 1, 2, -2], ignore=-1), ValueError, "from 0 to 2, got -2"),
        (lambda: logitcrossentropy(SCORES, [0] * 4, smoothing=1.0), ValueError, "smoothing"),
        (lambda: logitbinarycrossentropy(SCORES, SCORES, smoothing=-0.1), ValueError, "smoothing"),
        (lambda: huber_loss(SCORES, SCORES, delta="a"), TypeError, "delta must be a number, got str"),
        (
            lambda: huber_loss(SCORES, SCORES, delta=np.ones(3)),
            TypeError,
            "delta must be a number, got an nd",
        ),
        (lambda: crossentropy(softmax(SCORES), [0] * 4, epsilon="1"), TypeError, "epsilon must be a number"),
        (
            lambda: kldivergence(softmax(SCORES), softmax(SCORES), epsilon=-1),
            ValueError,
            "epsilon must be in",
        ),
        (lambda: binarycrossentropy(0.5, True, epsilon=[1]), TypeError, "epsilon must be a number, got list"),
    ],
)
def test_options_that_do_not_fit_are_named(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("of", [float, np.float64, np.array, param])
def test_delta_epsilon_and_smoothing_may_be_any_number_and_have_a_gradient(of):
    ŷ, x = np.array([3.0, 0.1]), of(0.5)
    assert huber_loss(ŷ, 0.0, delta=x) == huber_loss(ŷ, 0.0, delta=0.5)
    assert crossentropy(ŷ / 4, 1, epsilon=x) == crossentropy(ŷ / 4, 1, epsilon=0.5)
    assert gradient(lambda x: huber_loss(ŷ, 0.0, delta=x), x)[0] == pytest.approx(1.25)
    assert gradient(lambda x: crossentropy(ŷ / 4, 1, epsilon=x), x)[0] == pytest.approx(-1 / 0.525)
    shifted = lambda x: logitcrossentropy(ŷ, 1, smoothing=x)
    assert shifted(x) == shifted(0.5)
    assert gradient(shifted, x)[0] == pytest.approx(-1.45)  # half the way from class 1 to both
    if of in (float, np.float64):
        single = ŷ.astype(np.float32)
        assert huber_loss(single, single, delta=x).dtype == np.float32
        assert crossentropy(single / 4, 1, epsilon=x).dtype == np.float32


# Extremes -----------------------------------------------------------------------------------------

# loss, ŷ, y, the loss of each sample, its gradient; ε is the machine epsilon
EXTREMES = [
    (logitbinarycrossentropy, [1000, -1000, 1000, -1000], [1, 0, 0, 1], [0, 0, 1000, 1000], [0, 0, 1, -1]),
    (logitcrossentropy, [[1000, -1000], [-1000, 1000]], [0, 0], [0, 2000], [[0, 0], [-1, 1]]),
    (logitcrossentropy, [[1000, 1000]], [0], [np.log(2)], [[-0.5, 0.5]]),
    (crossentropy, [[1, 0], [0, 1]], [0, 0], [0, "-log ε"], [[-1, 0], ["-1/ε", 0]]),
    (binarycrossentropy, [1, 0, 0, 1], [1, 0, 1, 0], [0, 0, "-log ε", "-log ε"], [-1, 1, "-1/ε", "1/ε"]),
    (kldivergence, [[1, 0], [0, 1]], [[1, 0], [1, 0]], [0, "-log ε"], [[-1, 0], ["-1/ε", 0]]),
    (poisson_loss, [0, 1000], [0, 0], [0, 1000], [1, 1]),
    (hinge_loss, [1000, -1000], [1, 1], [0, 1001], [0, -1]),
    (mae, [1000, 0], [0, 0], [1000, 0], [1, 0]),
    (huber_loss, [1000, 0, 1], [0, 0, 0], [999.5, 0, 0.5], [1, 0, 1]),
]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("loss", "ŷ", "y", "values", "slopes"), EXTREMES)
def test_loss_and_gradient_are_right_at_the_extremes(loss, ŷ, y, values, slopes, dtype):
    ε = np.finfo(dtype).eps
    known = {"-log ε": -np.log(ε), "-1/ε": -1 / ε, "1/ε": 1 / ε}
    numbers = np.vectorize(lambda v: float(known.get(str(v), v)), otypes=[float])
    ŷ = param(ŷ, dtype)
    tolerance = {"rtol": 4 * ε, "atol": 4 * ε}
    np.testing.assert_allclose(loss(ŷ, y, agg=same), numbers(values), **tolerance)
    g = gradient(lambda: loss(ŷ, y, agg=np.sum), params(ŷ))[ŷ]
    np.testing.assert_allclose(g, numbers(slopes), **tolerance)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@given(score=st.floats(-60, 60), target=st.sampled_from([0, 1]))
def test_a_score_that_is_right_keeps_the_digits_of_its_loss(dtype, score, target):
    ŷ = np.array(score, dtype)
    z = np.longdouble(ŷ) * (1 - 2 * target)
    value, slope = np.maximum(z, 0) + np.log1p(np.exp(-abs(z))), (1 - 2 * target) / (1 + np.exp(-z))
    info = np.finfo(dtype)
    tolerance = {"rtol": 4 * info.eps, "atol": 4 * float(info.smallest_subnormal)}
    np.testing.assert_allclose(np.longdouble(logitbinarycrossentropy(ŷ, target)), value, **tolerance)
    (g,) = gradient(lambda ŷ: logitbinarycrossentropy(ŷ, target), ŷ)
    np.testing.assert_allclose(
        np.longdouble(g), slope, rtol=8 * info.eps, atol=4 * float(info.smallest_subnormal)
    )


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (logitcrossentropy, {"weights": 1.0}),
        (logitcrossentropy, {"ignore": -100}),
        (mse, {"weights": 1.0}),
        (mse, {"weights": np.ones(70_000)}),
    ],
)
def test_half_precision_counts_many_samples(loss, options):
    of_classes = loss is logitcrossentropy
    ŷ = param(np.ones((70_000, 2) if of_classes else 70_000), np.float16)
    y = np.zeros(70_000, int) if of_classes else np.zeros(70_000, np.float16)
    value = loss(ŷ, y, **options)
    assert value.dtype == np.float16
    np.testing.assert_allclose(value, loss(ŷ, y), rtol=1e-3)
    g = gradient(lambda: 1000 * loss(ŷ, y, **options), params(ŷ))[ŷ]
    assert g.dtype == np.float16
    np.testing.assert_allclose(g, gradient(lambda: 1000 * loss(ŷ, y), params(ŷ))[ŷ], rtol=1e-2)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e6])
@pytest.mark.parametrize("loss", ELEMENTWISE + OF_CLASSES)
def test_a_weighted_mean_of_half_precision_is_that_of_single(loss, scale):
    ŷ = probabilities((5, 3), 6).astype(np.float16)
    y = np.eye(3)[[0, 1, 2, 1, 0]] if loss is not hinge_loss else 2 * np.eye(3)[[0, 1, 2, 1, 0]] - 1
    ŷ = 150 * ŷ if loss in (mse, mae, huber_loss, logitcrossentropy) else ŷ
    weights = scale * np.arange(1.0, 6)
    mean = lambda dtype: loss(ŷ.astype(dtype), y.astype(dtype), weights=weights)
    assert mean(np.float16).dtype == np.float16
    np.testing.assert_allclose(mean(np.float16), mean(np.float32), rtol=0.01)


def test_without_epsilon_an_impossible_event_costs_infinity_and_an_irrelevant_one_nothing():
    p, q = np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]])
    assert kldivergence(q, p, epsilon=0) == np.log(2)
    with pytest.warns(RuntimeWarning, match="divide by zero"):
        assert kldivergence(p, q, epsilon=0) == np.inf
    ŷ = param(p)
    assert gradient(lambda: crossentropy(ŷ, [0], epsilon=0), params(ŷ))[ŷ].tolist() == [[-1, 0]]


# Functions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("f", "values", "slopes"),
    [
        (relu, [0, 0, 1000], [0, 0, 1]),
        (leakyrelu, [-10, 0, 1000], [0.01, 0.01, 1]),
        (elu, [-1, 0, 1000], [0, 1, 1]),
        (gelu, [0, 0, 1000], [0, 0.5, 1]),
        (sigmoid, [0, 0.5, 1], [0, 0.25, 0]),
        (softplus, [0, np.log(2), 1000], [0, 0.5, 1]),
    ],
)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_function_and_derivative_at_minus_a_thousand_at_zero_and_at_a_thousand(f, values, slopes, dtype):
    x = param([-1000, 0, 1000], dtype)
    ε = np.finfo(dtype).eps
    y, g = f(x), gradient(lambda: np.sum(f(x)), params(x))[x]
    assert y.dtype == g.dtype == dtype
    np.testing.assert_allclose(y, values, rtol=2 * ε, atol=2 * ε)
    np.testing.assert_allclose(g, slopes, rtol=2 * ε, atol=2 * ε)


@pytest.mark.parametrize(
    ("f", "below"), [(relu, 0), (leakyrelu, -np.inf), (elu, -1), (gelu, 0), (sigmoid, 0), (softplus, 0)]
)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_a_function_has_its_limits_at_the_ends_of_a_dtype(f, below, dtype):
    most = np.finfo(dtype).max
    x = np.array([-np.inf, -most, most, np.inf], dtype)
    above = [1, 1] if f is sigmoid else [most, np.inf]
    expected = [below, -0.01 * most if f is leakyrelu else below, *above]
    np.testing.assert_allclose(f(x), np.array(expected, dtype), rtol=10 * np.finfo(dtype).eps, atol=0)
    slopes = gradient(lambda x: np.sum(f(x)), x[1:-1])[0]
    expected = [0.01 if f is leakyrelu else 0, 0 if f is sigmoid else 1]
    np.testing.assert_allclose(slopes, expected, rtol=np.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("f", [np.expm1, elu, lambda x: special.expm1(x)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_slope_of_an_exponential_less_one_has_all_its_digits(f, dtype):
    x = -np.linspace(0.01, -np.log(float(np.finfo(dtype).tiny)), 20).astype(dtype)
    ε = np.finfo(dtype).eps
    for _ in range(2):
        f = lambda x, f=f: gradient(lambda x: np.sum(f(x)), x)[0]
        np.testing.assert_allclose(f(x), np.exp(x.astype(np.longdouble)).astype(dtype), rtol=8 * ε, atol=0)


@pytest.mark.parametrize("f", FUNCTIONS)
@given(x=arrays(np.float64, (2, 3), elements=st.floats(-20, 20).filter(lambda x: abs(x) > 1e-3)))
def test_the_gradient_of_a_function_is_its_derivative(f, x):
    weights = np.arange(1.0, 7).reshape(2, 3)
    (g,) = gradient(lambda x: np.sum(weights * f(x)), x)
    np.testing.assert_allclose(g, numerical(lambda x: np.sum(weights * f(x)), x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("f", FUNCTIONS)
def test_the_second_derivative_of_a_function_is_the_derivative_of_its_first(f):
    x = np.array([-2.0, 0.5, 3.0])
    weights = np.array([1.0, -2.0, 3.0])
    H = hessian(lambda x: np.sum(weights * f(x)), x)
    for i in range(3):
        row = numerical(lambda x, i=i: gradient(lambda x: np.sum(weights * f(x)), x)[0][i], x)
        np.testing.assert_allclose(H[i], row, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("f", FUNCTIONS)
def test_a_function_takes_numbers_of_every_kind(f):
    exact = f(np.array([-1.0, 0.0, 2.0]))
    np.testing.assert_array_equal(f([-1, 0, 2]), exact)
    np.testing.assert_array_equal(f(np.array([-1, 0, 2], np.int8)), exact)
    np.testing.assert_array_equal(f(param([-1, 0, 2])), exact)
    assert f(np.zeros((0, 3), np.float32)).shape == (0, 3)


class Tensor:
    """Holds an array, as other libraries' do."""

    dtype, shape = "float64", (2, 2)

    def __init__(self, x):
        self._x = x

    def __array__(self, dtype=None, copy=None):
        return self._x

    def __mul__(self, other):
        raise AssertionError("counted with as it is")

    __sub__ = __add__ = __pow__ = __neg__ = __abs__ = __gt__ = __mul__


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize("kind", [np.matrix, Tensor])
@pytest.mark.parametrize("f", [*FUNCTIONS, logsumexp, *ELEMENTWISE, *OF_CLASSES])
def test_what_holds_an_array_means_that_array(f, kind):
    x, y = np.array([[0.5, 0.25], [0.125, 0.75]]), np.eye(2) if f is not hinge_loss else 2 * np.eye(2) - 1
    if f not in ELEMENTWISE + OF_CLASSES:
        result = f(kind(x))
        assert type(result) is type(f(x))
        np.testing.assert_array_equal(result, f(x))
        return
    for ŷ, target in [(kind(x), y), (x, kind(y)), (kind(x), kind(y))]:
        assert f(ŷ, target) == f(x, y)
    if f in ELEMENTWISE:
        assert f(x, y, weights=kind(x)) == f(x, y, weights=x)


@pytest.mark.parametrize("x", [None, "a", ["a"], np.array([1.0, 2.0], object), sparse.eye(2)], ids=repr)
@pytest.mark.parametrize("f", [*FUNCTIONS, logsumexp, *ELEMENTWISE, *OF_CLASSES])
def test_what_is_no_array_of_numbers_is_refused_by_its_name(f, x):
    y = () if f not in ELEMENTWISE + OF_CLASSES else (1.0,) if f in ELEMENTWISE else (np.eye(2),)
    cure = {np.ndarray: r"astype\(float\)", type(sparse.eye(2)): r"toarray\(\)"}.get(type(x), "")
    with pytest.raises(TypeError, match=f"takes numbers, got .*{cure}"):
        f(x, *y)


@pytest.mark.parametrize("x", [10**30, Fraction(1, 2), True, np.True_, np.int8(3)], ids=repr)
@pytest.mark.parametrize("f", [relu, leakyrelu, elu, gelu, sigmoid, softplus])
def test_a_number_of_any_kind_is_a_float(f, x):
    assert f(x) == f(float(x))


@pytest.mark.parametrize("f", [relu, leakyrelu, elu, gelu, sigmoid, softplus])
def test_a_single_number_has_a_value_and_nan_is_not_hidden(f):
    assert f(0.5) == f(np.array([0.5]))[0]
    with np.errstate(invalid="ignore"):
        assert np.isnan(f(np.nan))


OF_MANY = {
    "softmax": softmax,
    "logsoftmax": logsoftmax,
    "logsumexp": logsumexp,
    "class number": lambda x: logitcrossentropy(x, 3),
    "one-hot": lambda x: logitcrossentropy(x, np.arange(len(x)) == 3),
}


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("f", OF_MANY.values(), ids=OF_MANY)
def test_half_precision_adds_up_many_classes_as_single_does(f, is_compiled):
    x = np.linspace(0, 1, 150_000, dtype=np.float16)
    some = slice(5) if np.ndim(f(x)) else ...  # a gradient of them all would be 0
    run = compiled(lambda x: np.sum(f(x)[some])) if is_compiled else None
    one, two = (
        run(z)[1][0] if run else gradient(lambda x: np.sum(f(x)[some]), z)[0]
        for z in (x, x.astype(np.float32))
    )
    assert (f(x).dtype, one.dtype) == (np.float16, np.float16)
    tolerance = {"rtol": 1e-3, "atol": 4 * float(np.finfo(np.float16).smallest_subnormal)}
    np.testing.assert_allclose(f(x), f(x.astype(np.float32)), **tolerance)
    np.testing.assert_allclose(one, two, **tolerance)


@given(arrays(np.float64, (3, 4), elements=st.floats(-1000, 1000)), st.floats(-1000, 1000))
def test_softmax_gives_probabilities_that_a_shift_of_all_scores_does_not_change(x, shift):
    p = softmax(x)
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-12)
    np.testing.assert_allclose(softmax(x + shift), p, rtol=1e-9, atol=1e-300)
    np.testing.assert_allclose(np.exp(logsoftmax(x)), p, rtol=1e-9, atol=1e-300)
    np.testing.assert_allclose(softmax(x.T, axis=0), p.T)


@given(st.floats(-700, 700))
def test_the_logistic_functions_fit_together(x):
    np.testing.assert_allclose(sigmoid(x) + sigmoid(-x), 1, rtol=1e-12)
    np.testing.assert_allclose(softplus(x) - softplus(-x), x, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(np.log(sigmoid(x)), -softplus(-x), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(sigmoid(x), softmax(np.array([0.0, x]))[1], rtol=1e-9)


def test_the_logistic_function_and_its_derivatives_have_all_their_digits():
    x = np.array([-700.0, -30, -1, 0, 1e-3, 2, 30, 700])
    f, y = sigmoid, np.longdouble(x)
    slope, turn = 1 / (4 * np.cosh(y / 2) ** 2), -np.tanh(y / 2)
    for exact in (1 / (1 + np.exp(-y)), slope, slope * turn, slope * (turn**2 - 2 * slope)):
        np.testing.assert_allclose(f(x), exact.astype(float), rtol=1e-13, atol=0)
        f = lambda x, f=f: gradient(lambda x: np.sum(f(x)), x)[0]


@pytest.mark.parametrize("f", [*FUNCTIONS, logsumexp])
def test_functions_of_real_numbers_refuse_complex_ones(f):
    with pytest.raises(TypeError, match=f"^{f.__name__} takes real numbers.*np.real"):
        f(np.array([1j, 2.0]))
    with pytest.raises(TypeError, match=f"^{f.__name__} takes real numbers"):
        gradient(lambda z: np.sum(f(z)), np.array([1j, 2.0]))


@pytest.mark.parametrize("loss", [loss for loss in ELEMENTWISE + OF_CLASSES if loss not in (mse, mae)])
def test_a_loss_whose_formula_is_of_real_numbers_refuses_complex_ones(loss):
    ŷ, y = np.array([0.5, 0.5]), np.array([1.0, 0.0])
    if loss is hinge_loss:
        y = 2 * y - 1
    for target in [1, y] if loss in OF_CLASSES else [y]:
        with pytest.raises(TypeError, match=f"^{loss.__name__} takes real numbers"):
            loss(ŷ + 0j, target)
    with pytest.raises(TypeError, match=r"takes real numbers.*np.real"):
        loss(ŷ, y + 0j)
    with pytest.raises(TypeError, match="takes real numbers"):
        gradient(lambda ŷ: np.real(loss(ŷ, y)), ŷ + 0j)


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize(
    "loss",
    [logitcrossentropy, crossentropy, kldivergence, logitbinarycrossentropy, binarycrossentropy,
     poisson_loss],
)  # fmt: skip
def test_scores_in_the_place_of_targets_are_refused_under_differentiation_as_outside(loss, is_compiled):
    scores = np.array([[0.3, -2.0], [1.5, 0.2]])
    y, W = np.eye(2), param(np.eye(2))
    with pytest.raises(ValueError, match="must be"):
        loss(y, scores)
    with pytest.raises(ValueError, match=r"must be .*\. Is the prediction the first argument"):
        train(lambda x, y: loss(y, x @ W), params(W), [(scores, y)], Descent(0.5), compiled=is_compiled)


@pytest.mark.parametrize("loss", [*ELEMENTWISE, *OF_CLASSES])
def test_a_mask_is_refused_where_it_would_be_lost(loss):
    ŷ, masked = np.full((3, 3), 0.3), np.ma.array([1, 0, 1], mask=[0, 0, 1])
    y = 2 * np.eye(3) - 1 if loss is hinge_loss else np.eye(3)
    with pytest.raises(TypeError, match=r"masked.*weights=np\.where\(mask, 0\.0, 1\.0\)"):
        loss(ŷ, y, weights=masked[:, None])
    if loss in OF_CLASSES:
        with pytest.raises(TypeError, match=r"masked.*ignore="):
            loss(ŷ, masked)


def test_the_slopes_below_zero_can_be_chosen():
    assert leakyrelu(-2.0, 0.1) == -0.2
    np.testing.assert_allclose(elu(-1000.0, 3.0), -3)


@pytest.mark.parametrize("of", ["f2", "f4", "f8"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "g"])
@pytest.mark.parametrize("f", [leakyrelu, elu])
def test_a_slope_of_any_precision_leaves_the_dtype(f, dtype, of):
    x, slope = np.array([-2.0, 1.0], dtype), np.dtype(of).type(0.5)
    assert f(x, slope).dtype == gradient(lambda x: np.sum(f(x, slope)), x)[0].dtype == x.dtype
    np.testing.assert_array_equal(f(x, slope), f(x, 0.5))


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("y", [[1, 2], [[0, 1, 0], [0, 0, 1]], [[0, 0.25, 0.75], [0, 1, 0]]])
def test_a_score_of_minus_infinity_takes_a_class_out(dtype, y):
    scores = np.array([[-np.inf, 0, 1], [-np.inf, 2, -1]], dtype)
    y = np.array(y)
    loss = logitcrossentropy(scores, y)
    np.testing.assert_allclose(loss, crossentropy(softmax(scores), y), rtol=1e-5)
    without = y[:, 1:] if y.ndim == 2 else y - 1
    np.testing.assert_allclose(loss, logitcrossentropy(scores[:, 1:], without), rtol=1e-6)
    g, g_without = (
        gradient(lambda z: logitcrossentropy(z, t), z)[0] for z, t in ((scores, y), (scores[:, 1:], without))
    )
    np.testing.assert_array_equal(g[:, 0], 0)
    np.testing.assert_allclose(g[:, 1:], g_without, rtol=1e-6)
    assert g.dtype == dtype


@pytest.mark.parametrize("dtype", ["i1", "u8", "i8"])
@pytest.mark.parametrize("shape", [(), (0,), (4,), (2, 3)])
def test_class_numbers_are_rows_of_one_hot_targets(dtype, shape):
    scores = np.random.default_rng(0).normal(size=(*shape, 5))
    numbers = np.random.default_rng(1).integers(0, 5, shape).astype(dtype)
    keep = lambda losses: losses
    for loss in (logitcrossentropy, lambda z, y, agg: crossentropy(softmax(z), y, agg=agg)):
        one_hot = loss(scores, np.eye(5)[numbers], agg=keep)
        np.testing.assert_allclose(loss(scores, numbers, agg=keep), one_hot, rtol=1e-14)
        g, g_one_hot = (
            gradient(lambda z: loss(z, y, agg=np.sum), scores)[0] for y in (numbers, np.eye(5)[numbers])
        )
        np.testing.assert_allclose(g, g_one_hot, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("f", FUNCTIONS)
def test_a_function_is_recorded_by_autograd_too(f):
    x = np.array([[-1.5, 0.2, 3.0], [0.1, -0.4, 14.0]])
    weigh = lambda z: anp.sum(f(z) * np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(autograd.grad(weigh)(x), gradient(weigh, x)[0], rtol=1e-14, atol=1e-300)


@pytest.mark.parametrize("how", [compiled, lambda f: lambda x: gradient(f, x)])
@pytest.mark.parametrize(
    ("loss", "y", "bad", "twin"),
    [
        (crossentropy, [[1.0, 0.0]], [[2.0, -1.0]], "logitcrossentropy"),
        (crossentropy, [1], [[2.0, -1.0]], "logitcrossentropy"),
        (binarycrossentropy, [[1.0, 0.0]], [[0.5, -0.1]], "logitbinarycrossentropy"),
        (binarycrossentropy, [[1.0, 0.0]], [[1.5, 0.1]], "logitbinarycrossentropy"),
    ],
)
def test_scores_for_probabilities_are_refused(loss, y, bad, twin, how):
    f = how(lambda ŷ: loss(ŷ, np.array(y)))
    f(np.array([[0.25, 0.75]]))
    with pytest.raises(ValueError, match=f"of scores take {twin}; got"):
        f(np.array(bad))


LAYOUTS = [
    lambda z: np.moveaxis(z, 1, 2),
    lambda z: z[::-1].swapaxes(1, 2),
    lambda z: z[0].T,
    lambda z: z[0, 1],
]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_scores_in_any_layout_have_the_gradient_of_differences(layout, order):
    rng = np.random.default_rng(0)
    z = np.array(rng.normal(size=(2, 4, 3)), order=order)
    y = rng.integers(0, 4, layout(z).shape[:-1])
    check_gradient(lambda z: logitcrossentropy(layout(z), y), z)


@pytest.mark.parametrize(
    "y", [None, "a", np.array([[None, 1]]), np.array([["a", "b"]]), np.array(None)], ids=str
)
@pytest.mark.parametrize("loss", [mse, hinge_loss, binarycrossentropy, crossentropy])
def test_a_target_that_is_no_number_is_refused(loss, y):
    with pytest.raises((TypeError, ValueError), match=r"target (must )?be (class )?numbers"):
        loss(np.full((1, 2), 0.5), y)


@pytest.mark.parametrize("dtype", [int, bool, float])
def test_a_row_of_zeros_is_a_sample_that_counts_for_nothing(dtype):
    scores, y = np.array([[1.0, 2.0], [3.0, -1.0]]), np.array([[0, 1], [0, 0]], dtype)
    assert logitcrossentropy(scores, y) == logitcrossentropy(scores[:1], y[:1]) / 2


OPTIONS = [  # of other libraries, and how what they ask for is written
    ({"reduction": "sum"}, r"agg=np\.mean, agg=np\.sum", ELEMENTWISE + OF_CLASSES),
    ({"size_average": False}, r"agg=np\.mean, agg=np\.sum", ELEMENTWISE + OF_CLASSES),
    ({"axis": 0}, r"agg=lambda losses: np\.mean\(losses, axis=…\)", ELEMENTWISE + OF_CLASSES),
    ({"weight": [1.0]}, r"weights=.*w\[None\]", ELEMENTWISE + OF_CLASSES),
    (
        {"label_smoothing": 0.1},
        r"smoothing=$",
        [*OF_CLASSES[:2], binarycrossentropy, logitbinarycrossentropy],
    ),
    ({"label_smoothing": 0.1}, r"agg= or weights=", [mse, kldivergence]),
    ({"ignore_index": 3}, r"ignore=$", OF_CLASSES[:2]),
    ({"eps": 0.1}, r"epsilon=$", [binarycrossentropy, crossentropy, kldivergence]),
    ({"eps": 0.1}, r"agg= or weights=$", [mse, poisson_loss]),
    ({"ε": 0.1}, r"epsilon=$", [crossentropy]),
    ({"beta": 2.0}, r"delta=beta, and divide", [huber_loss]),
    ({"nonsense": 2.0}, r"agg= or weights= or delta=$", [huber_loss]),
    ({"from_logits": True}, r"logitbinarycrossentropy of scores", [binarycrossentropy, crossentropy]),
]


@pytest.mark.parametrize(
    ("option", "words", "losses"), OPTIONS, ids=lambda x: str(x) if type(x) is dict else ""
)
def test_an_option_of_another_library_is_answered_with_what_to_write(option, words, losses):
    (name,) = option
    for loss in losses:
        with pytest.raises(TypeError, match=f"{loss.__name__} has no option '{name}': write .*{words}"):
            loss(np.full((2, 2), 0.5), np.eye(2), **option)


@given(arrays(np.float64, 4, elements=st.floats(-5, 5)), st.floats(0.1, 5))
def test_what_is_written_for_beta_and_pos_weight_is_pytorchs_loss(e, scale):
    smooth_l1 = np.where(abs(e) < scale, e**2 / (2 * scale), abs(e) - scale / 2)
    np.testing.assert_allclose(huber_loss(e, 0.0, agg=same, delta=scale) / scale, smooth_l1, atol=1e-12)
    y, p = np.array([0, 1, 1, 0]), special.expit(e)
    weighted = -scale * y * np.log(p) - (1 - y) * np.log(1 - p)
    ours = logitbinarycrossentropy(e, y, agg=same, weights=np.where(y == 1, scale, 1))
    np.testing.assert_allclose(ours, weighted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "kind", [float, int, np.float64, np.float32, np.int64, np.array, lambda y: np.array([y])]
)
@pytest.mark.parametrize(
    ("loss", "bad", "good"),
    [
        (binarycrossentropy, 5, 1),
        (logitbinarycrossentropy, -1, 0),
        (hinge_loss, 0, -1),
        (poisson_loss, -1, 2),
    ],
)
def test_a_target_is_checked_whatever_number_it_is(loss, bad, good, kind):
    ŷ = np.array([0.5]) if np.ndim(kind(0)) else np.float64(0.5)
    W = param(ŷ)
    for call in (lambda y: loss(ŷ, y), compiled(lambda y: loss(W * 1.0, y), params(W))):
        call(kind(good))
        with pytest.raises(ValueError, match=r"targets must be"):
            call(kind(bad))
    for weights in (np.float64(-1.0), -1.0):
        with pytest.raises(ValueError, match="weights must be at least 0"):
            loss(ŷ, kind(good), weights=weights)


@pytest.mark.parametrize("loss", [mse, hinge_loss, poisson_loss, binarycrossentropy, logitbinarycrossentropy])
@pytest.mark.parametrize("numbers", [np.array([0.7, 0.5]), 0.7])
def test_targets_and_weights_may_be_under_differentiation(loss, numbers):
    ŷ = 0.3 * numbers
    f = lambda y, w: loss(ŷ, y, weights=w)
    check_gradient(f, numbers, 2 * numbers)
    result, expected = compiled(f)(numbers, 2 * numbers), withgradient(f, numbers, 2 * numbers)
    assert result.val == expected.val
    np.testing.assert_array_equal(result.grad, expected.grad)
    y, w = param(numbers), param(2 * numbers)
    g, h = gradient(lambda: f(y, w), params(y, w)), compiled(lambda: f(y, w), params(y, w))().grad
    for p, by_argument in zip((y, w), expected.grad, strict=True):
        np.testing.assert_array_equal(g[p], by_argument)
        np.testing.assert_array_equal(h[p], by_argument)
