"""DataLoader: which samples come in which batch, in which order."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidiff.data import DataLoader

SIZES = {"n": st.integers(0, 30), "batchsize": st.integers(1, 12)}


@given(**SIZES, shuffle=st.booleans())
def test_an_epoch_has_every_sample_once(n, batchsize, shuffle):
    loader = DataLoader(np.arange(n), batchsize, shuffle)
    for _ in range(2):
        batches = list(loader)
        assert sorted(i for batch in batches for i in batch) == list(range(n))
        assert [len(batch) for batch in batches[:-1]] == [batchsize] * (len(batches) - 1)
        assert len(batches) == len(loader)


@given(**SIZES, shuffle=st.booleans())
def test_without_partial_all_batches_are_whole(n, batchsize, shuffle):
    whole = DataLoader(np.arange(n), batchsize, shuffle, partial=False, rng=0)
    every = DataLoader(np.arange(n), batchsize, shuffle, rng=0)
    expected = [batch.tolist() for batch in every if len(batch) == batchsize]
    assert [batch.tolist() for batch in whole] == expected
    assert len(whole) == n // batchsize


def test_a_batch_is_what_the_data_are():
    x, y = np.arange(10).reshape(5, 2), np.arange(5)
    batch = next(iter(DataLoader(x, 2)))
    np.testing.assert_array_equal(batch, x[:2])
    batch = next(iter(DataLoader((x, y), 2)))
    assert type(batch) is tuple
    np.testing.assert_array_equal(batch[1], y[:2])
    batch = next(iter(DataLoader((x,), 2)))
    assert isinstance(batch, tuple)
    batch = next(iter(DataLoader({"x": x, "y": y}, 2)))
    assert list(batch) == ["x", "y"]
    np.testing.assert_array_equal(batch["x"], x[:2])


def test_the_parts_of_a_shuffled_batch_belong_together():
    x = np.arange(20)
    for a, b in DataLoader((x, -x), 3, shuffle=True):
        np.testing.assert_array_equal(a, -b)
    for batch in DataLoader({"a": x, "b": x[:, None] * 2}, 3, shuffle=True):
        np.testing.assert_array_equal(batch["b"][:, 0], 2 * batch["a"])


def test_batches_in_order_are_views_and_shuffled_ones_copies():
    x = np.arange(6.0)
    assert all(np.shares_memory(batch, x) for batch in DataLoader(x, 4))
    assert not any(np.shares_memory(batch, x) for batch in DataLoader(x, 4, shuffle=True))


def orders(loader, epochs=3):
    return [[np.ravel(batch).tolist() for batch in loader] for _ in range(epochs)]


def samples(loader):
    return [[i for batch in epoch for i in batch] for epoch in orders(loader)]


def test_the_seed_decides_the_orders_and_nothing_else_does():
    x = np.arange(50)
    first = samples(DataLoader(x, 7, shuffle=True, rng=3))
    np.random.seed(5)
    for loader in (
        DataLoader(x, 50, shuffle=True, rng=3),
        DataLoader(x.astype(np.float32), 1, shuffle=True, rng=3),
        DataLoader(x[:, None], 9, shuffle=True, rng=np.int64(3)),
        DataLoader(x, 7, shuffle=True, rng=np.random.default_rng(3)),
    ):
        assert samples(loader) == first
    assert first[0] != first[1]
    assert samples(DataLoader(x, 7, shuffle=True, rng=4)) != first
    assert samples(DataLoader(x, shuffle=True)) != samples(DataLoader(x, shuffle=True))


def test_without_shuffling_a_generator_is_not_drawn_from():
    rng = np.random.default_rng(0)
    list(DataLoader(np.arange(5), rng=rng))
    assert rng.random() == np.random.default_rng(0).random()


def test_iterations_at_the_same_time_do_not_disturb_each_other():
    loader = DataLoader(np.arange(4), 2, shuffle=True, rng=0)
    pairs = list(zip(loader, loader, strict=True))
    for side in zip(*pairs, strict=True):
        assert sorted(np.concatenate(side)) == [0, 1, 2, 3]


@given(
    n=st.integers(1, 30),
    batchsize=st.integers(1, 12),
    shuffle=st.booleans(),
    taken=st.integers(1, 40),
    disturb=st.booleans(),
)
def test_a_loader_set_to_a_state_goes_on_as_the_other_would(n, batchsize, shuffle, taken, disturb):
    rng = np.random.default_rng(1)
    loader = DataLoader(np.arange(n), batchsize, shuffle, rng=rng)
    batches = iter(loader)
    for _ in range(min(taken, len(loader))):
        next(batches)
        if disturb:
            rng.random()  # whoever else draws from the same generator
    another = DataLoader(np.arange(n), batchsize, shuffle, rng=9)
    list(another)
    another.state = loader.state
    rest = [batch.tolist() for batch in batches]
    assert [batch.tolist() for batch in another] == rest
    assert orders(another) == orders(loader)


def test_the_state_of_a_loader_that_has_not_begun_or_is_done_begins_an_epoch():
    for taken in (0, 2):
        loader = DataLoader(np.arange(10), 5, shuffle=True, rng=2)
        for _ in range(taken):
            list(loader)
        another = DataLoader(np.arange(10), 5, shuffle=True)
        another.state = loader.state
        assert orders(another) == orders(loader)


def test_a_state_that_cannot_be_is_refused_and_changes_nothing():
    loader = DataLoader(np.arange(10), 5, shuffle=True, rng=2)
    foreign = DataLoader(np.arange(10), 1, shuffle=True, rng=3)
    batches = iter(foreign)
    for _ in range(5):
        next(batches)
    for wrong, error in [(foreign.state, ValueError), ({"rng": loader.state["rng"]}, KeyError)]:
        with pytest.raises(error):
            loader.state = wrong
    assert orders(loader) == orders(DataLoader(np.arange(10), 5, shuffle=True, rng=2))


def test_a_loader_pickles_with_its_place():
    loader = DataLoader(np.arange(10), 3, shuffle=True, rng=5)
    list(loader)
    assert orders(pickle.loads(pickle.dumps(loader))) == orders(loader)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([[1, 2], [3, 4]], TypeError, "got a list"),
        ("abc", TypeError, "got a str"),
        (5, TypeError, "got a int"),
        ((), ValueError, "at least one array"),
        ({}, ValueError, "at least one array"),
        (np.float64(1), ValueError, "single value"),
        ((np.zeros(2), np.zeros(())), ValueError, "single value"),
        ((np.zeros(2), np.zeros(3)), ValueError, "same number of samples, got {0: 2, 1: 3}"),
        ({"x": np.zeros(2), "y": np.zeros((1, 2))}, ValueError, "got {'x': 2, 'y': 1}"),
    ],
)
def test_data_that_are_no_samples_are_refused(data, error, message):
    with pytest.raises(error, match=message.replace("{", r"\{")):
        DataLoader(data)


@pytest.mark.parametrize(
    ("batchsize", "error"), [(0, ValueError), (-1, ValueError), (2.0, TypeError), ("2", TypeError)]
)
def test_a_batchsize_is_a_positive_integer(batchsize, error):
    with pytest.raises(error, match="batchsize"):
        DataLoader(np.zeros(3), batchsize=batchsize)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: DataLoader(np.ones(3), np.ones(3)), TypeError, r"DataLoader\(\(x, y\)"),
        (lambda: DataLoader(zip([1], [2], strict=True)), TypeError, "zip"),
        (lambda: DataLoader(np.ones(3), True), TypeError, "batchsize must be an integer"),
    ],
)
def test_a_mistake_says_what_to_write(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize("other", [DataLoader(np.ones(12), 3), DataLoader(np.ones(10), 5)])
def test_the_state_of_another_loader_is_refused(other):
    loader = DataLoader(np.ones(12), 5)
    next(iter(loader))
    before = other.state
    with pytest.raises(ValueError, match="another loader"):
        other.state = loader.state
    assert other.state == before
    assert repr(loader) == "DataLoader(12 samples, batchsize=5, shuffle=False, partial=True)"


@pytest.mark.parametrize("batches", [-1, 4, 100])
def test_a_place_outside_of_the_epoch_is_refused(batches):
    loader = DataLoader(np.arange(12), 5)
    next(iter(loader))
    before = loader.state
    with pytest.raises(ValueError, match=f"{batches} batches"):
        loader.state = before | {"batches": batches}
    assert loader.state == before
    for place in (0, 3):
        loader.state = before | {"batches": place}
