"""DataLoader: which samples come in which batch, in which order."""

import copy
import io
import math
import pickle
import signal
from collections import deque, namedtuple
from contextlib import suppress
from itertools import count

import numpy as np
import pytest
from ctrl_c import pressed_at
from hypothesis import assume, given
from hypothesis import strategies as st

from minidiff import load, param, params, save, skip, stop, train
from minidiff.data import DataLoader
from minidiff.optimise import ADAM

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
    for wrong, error in [(foreign.state, ValueError), ({"rng": loader.state["rng"]}, ValueError)]:
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
        (iter([1, 2]), TypeError, r"got a list_iterator.*tuple\(map\(np.array, zip\(\*data"),
        ((np.ones(2), "ab"), TypeError, "got a str"),
        ({1, 2}, TypeError, "got a set"),
        ("abc", TypeError, "got a str"),
        (5, TypeError, "got a int"),
        ((), ValueError, "at least one array"),
        ({}, ValueError, "at least one array"),
        (np.float64(1), ValueError, "single value"),
        ((np.zeros(2), np.zeros(())), ValueError, "single value"),
        ((np.zeros(2), np.zeros(3)), ValueError, "same number of samples, got {0: 2, 1: 3}"),
        ({"x": np.zeros(2), "y": np.zeros((1, 2))}, ValueError, "got {'x': 2, 'y': 1}"),
        (
            (np.zeros((3, 9)), np.zeros((1, 9))),
            ValueError,
            "{0: 3, 1: 1}: samples are rows, X.T in place of X",
        ),
        ((np.zeros((3, 9)), np.zeros(9)), ValueError, "samples are rows, X.T"),
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
    ("name", "value", "error"),
    [
        ("batchsize", 0, ValueError),
        ("batchsize", 2.0, TypeError),
        ("shuffle", 1, TypeError),
        ("partial", "no", TypeError),
        ("rng", "seed", TypeError),
        ("data", np.zeros(4), AttributeError),
    ],
)
@pytest.mark.parametrize("again", [lambda x: x, copy.copy, lambda x: pickle.loads(pickle.dumps(x))])
def test_what_is_refused_of_a_new_loader_is_refused_of_one_that_is_there(again, name, value, error):
    loader = again(DataLoader(np.arange(6), 2, rng=0))
    before = vars(loader).copy()
    with pytest.raises(error, match=name):
        setattr(loader, name, value)
    assert all(vars(loader)[key] is value for key, value in before.items())
    assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3], [4, 5]]


@given(**SIZES, shuffle=st.booleans(), partial=st.booleans())
def test_what_is_set_holds_from_the_next_iteration_on(n, batchsize, shuffle, partial):
    loader = DataLoader(np.arange(n + 1), 3)
    batches = iter(loader)
    first = next(batches)
    loader.batchsize, loader.shuffle, loader.partial, loader.rng = batchsize, shuffle, partial, 1
    assert np.concatenate([first, *batches]).tolist() == list(range(n + 1))
    assert orders(loader) == orders(DataLoader(np.arange(n + 1), batchsize, shuffle, partial, 1))
    loader.shard(0, 2)  # it has a seed now


def with_state_of(loader, settings):
    other = DataLoader(loader.data, *settings, rng=9)
    other.state = loader.state
    return other


def with_own_state(loader):
    loader = copy.deepcopy(loader)
    loader.state = loader.state
    return loader


@pytest.mark.parametrize(
    "resume",
    [
        lambda loader, old, _: with_state_of(loader, old),
        lambda loader, _, new: with_state_of(loader, new),
        lambda loader, *_: with_own_state(loader),
        lambda loader, *_: copy.deepcopy(loader),
        lambda loader, *_: pickle.loads(pickle.dumps(loader)),
    ],
    ids=["old settings", "new settings", "own state", "copy", "pickle"],
)
@given(
    n=st.integers(1, 30),
    old=st.tuples(st.integers(1, 12), st.booleans(), st.booleans()),
    new=st.tuples(st.integers(1, 12), st.booleans(), st.booleans()),
    taken=st.integers(1, 5),
    seed=st.sampled_from([None, 0, 1]),
)
def test_an_iteration_goes_on_as_it_began_whatever_is_set_meanwhile(resume, n, old, new, taken, seed):
    loader = DataLoader(np.arange(n), *old, rng=0)
    batches = iter(loader)
    assume(len(loader))
    for _ in range(min(taken, len(loader))):
        next(batches)
    loader.batchsize, loader.shuffle, loader.partial = new
    if seed is not None:
        loader.rng = seed  # 0 once more
    other = resume(loader, old, new)
    assert other.state == loader.state
    assert [batch.tolist() for batch in other] == [batch.tolist() for batch in batches]
    assert orders(other) == orders(loader)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("partial", [False, True])
def test_the_state_of_an_iteration_with_its_partial_batch_is_none_of_one_without(partial, shuffle):
    loader, other = (DataLoader(np.arange(5), 2, shuffle, p, rng=4) for p in (partial, not partial))
    other.state = loader.state  # no iteration is under way
    a = param(0.0)
    train(lambda x: np.mean((a - x) ** 2), params(a), loader, ADAM(), cb=stop)
    assert loader.state["batches"] == 1
    before = other.state
    with pytest.raises(ValueError, match=f"partial={partial}, and this partial={not partial}"):
        other.state = loader.state
    assert other.state == before
    older = {name: x for name, x in loader.state.items() if name != "partial"}
    for p, state in [(partial, loader.state), (partial, older), (not partial, older)]:
        one = DataLoader(np.arange(5), 2, shuffle, p, rng=9)
        one.state = state
        assert len([*one]) == 1 + p  # what an older state does not say is as it is here
    even, another = (DataLoader(np.arange(4), 2, shuffle, p, rng=4) for p in (partial, not partial))
    next(iter(even))
    another.state = even.state  # all batches are whole


@pytest.mark.parametrize("next_", [(3, False, True), (2, True, True), (0, False, True), (3, False), 3, "abc"])
def test_settings_of_a_state_that_are_none_or_anothers_are_refused(next_):
    loader = DataLoader(np.arange(12), 2, partial=False)
    next(iter(loader))
    other = DataLoader(np.arange(12), 4)
    before = other.state, repr(other)
    with pytest.raises((TypeError, ValueError), match="state"):
        other.state = loader.state | {"next": next_}
    assert (other.state, repr(other)) == before


def test_a_training_whose_batches_change_amid_an_epoch_goes_on_from_a_checkpoint():
    def run(at):
        W, opt, loader = start()
        seen, epochs = [], []

        def loss(x, y):
            seen.append(y.tolist())
            return np.mean((x @ W - y) ** 2)

        def cb(progress):
            if len(seen) == 2:
                loader.batchsize, loader.shuffle = 5, False
            if len(seen) == at:
                stop()

        while len(epochs) < 2:
            train(loss, params(W), loader, opt, cb=cb, each_epoch=epochs.append, epochs=2 - len(epochs))
            file = io.BytesIO()
            save(file, params(W), opt, loader=loader.state)
            loader = DataLoader((X, Y), batchsize=loader.batchsize, shuffle=loader.shuffle, rng=9)
            loader.state = load(file, params(W), opt)["loader"]
        return seen, [progress.loss for progress in epochs], W.value.tolist()

    expected = run(0)
    assert list(map(len, expected[0])) == [2] * 6 + [5, 5, 2]
    for at in range(1, 10):
        assert run(at) == expected


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


@pytest.mark.parametrize(
    ("data", "advice"), [({1.0, 2.0}, ""), ("ab", ""), (iter([(1, 2)]), ", for pairs .*")]
)
def test_pairs_are_advised_where_they_may_be_some(data, advice):
    with pytest.raises(TypeError, match=rf"put all samples into arrays first{advice}$"):
        DataLoader(data)


@pytest.mark.parametrize("other", [DataLoader(np.ones(12), 3), DataLoader(np.ones(10), 5)])
def test_the_state_of_another_loader_is_refused(other):
    loader = DataLoader(np.ones(12), 5)
    next(iter(loader))
    before = other.state
    with pytest.raises(ValueError, match="another loader"):
        other.state = loader.state
    assert other.state == before
    assert repr(loader) == "DataLoader(12 samples, batchsize=5, shuffle=False, partial=True)"


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_state_of_a_loader_that_shuffles_is_none_of_one_that_does_not(shuffle):
    loader, other = (DataLoader(np.arange(8), 2, shuffle=s, rng=4) for s in (shuffle, not shuffle))
    other.state = loader.state  # no iteration is under way
    next(iter(loader))
    older = {name: x for name, x in loader.state.items() if name != "shuffle"}
    for state in (loader.state, older):
        with pytest.raises(ValueError, match=f"shuffle={shuffle}, and this shuffle={not shuffle}"):
            other.state = state
        loader.state = state
    one = DataLoader(np.arange(1), shuffle=shuffle, rng=4)
    next(iter(one))
    one.state = one.state


@pytest.mark.parametrize("shuffle", [True, False])
def test_one_sample_has_the_same_order_shuffled_or_not(shuffle):
    one, other = (DataLoader(np.arange(1), shuffle=s, rng=4) for s in (shuffle, not shuffle))
    next(iter(one))
    older = {name: x for name, x in one.state.items() if name != "shuffle"}
    for loader, state in ((other, one.state), (one, older)):
        loader.state = state
        assert list(loader) == []  # what is left of the epoch
        assert list(loader) == [[0]]


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


@pytest.mark.parametrize(
    "change",
    [
        {"batches": "1"},
        {"batches": True},
        {"batches": -1},
        {"batches": 5},
        {"begin": None},  # with a batch given
        {"begin": {}},
        {"begin": np.random.MT19937(0).state},
        {"rng": None},
        {"rng": 5},
        {"rng": np.random.MT19937(0).state},
        {"rng": {"bit_generator": "default_rng"}},
        {"rng": {"bit_generator": "BitGenerator"}},
        {"rng": np.random.PCG64(0).state | {"state": {"state": -1, "inc": 1}}},
        {"samples": 11},
        {"batchsize": "5"},
        {"shuffle": False},
        {"losses": 1.0},
        {"losses": (1, [None])},
        {"losses": (-1, [1.0])},
        {"losses": 5},
        {"losses": (1,)},
        {"losses": (1, 2)},
        {"next": (1, 2)},
    ],
    ids=str,
)
def test_nonsense_for_a_state_is_refused_at_once_and_changes_nothing(change):
    loader = DataLoader(np.arange(10), 3, shuffle=True, rng=2)
    next(iter(loader))
    other = DataLoader(np.arange(10), 3, shuffle=True, rng=7)
    with pytest.raises((ValueError, TypeError), match=r"^state"):
        other.state = loader.state | change
    assert orders(other) == orders(DataLoader(np.arange(10), 3, shuffle=True, rng=7))
    with pytest.raises(TypeError, match="a dict, got list"):
        other.state = []
    for state in ({}, {"count": 0, "best": None}):
        with pytest.raises(ValueError, match="of something else: it has no batches, begin, rng"):
            other.state = state


@pytest.mark.parametrize("at", ["just behind", "far", "before"])
def test_a_generator_is_not_set_to_read_beside_its_words(at):
    for kind, place, words in [
        (np.random.MT19937, ("state", "pos"), 624),
        (np.random.Philox, ("buffer_pos",), 4),
    ]:
        loader = DataLoader(np.arange(10), 3, shuffle=True, rng=kind(1))
        state = loader.state
        inner = state["rng"]
        for name in place[:-1]:
            inner = inner[name]
        inner[place[-1]] = {"just behind": words + 1, "far": 10**6, "before": -1}[at]
        with pytest.raises(ValueError, match="no state of a generator"):
            loader.state = state


@pytest.mark.parametrize("kind", [np.random.MT19937, np.random.Philox])
def test_a_generator_may_stand_at_any_of_its_words(kind):
    for drawn in (*range(6), 311, 312):  # of two words each, of which the Mersenne twister has 624
        loader, other = (DataLoader(np.arange(10), 3, shuffle=True, rng=kind(seed)) for seed in (1, 2))
        loader.rng.random(drawn)
        other.state = loader.state
        assert orders(other) == orders(loader)


def test_a_seed_is_looked_at_before_numpy_gets_it():
    itself = []
    itself.append(itself)
    for seed in (itself, [[1]], 1.5, "abc", np.ones(2), {1: itself}.values()):
        with pytest.raises(TypeError, match="rng must be a seed"):
            DataLoader(np.ones(3), rng=seed)
    with pytest.raises(ValueError, match=r"rng must be a seed.*-1"):
        DataLoader(np.ones(3), rng=-1)
    for seed in ([1, 2], np.arange(2), range(2), np.random.SeedSequence(1), np.random.PCG64(1)):
        DataLoader(np.ones(3), rng=seed)


# Runs that stop amid an epoch ---------------------------------------------------------------------

X = np.random.default_rng(0).normal(size=(12, 3))
Y = np.arange(12.0)


def start(batchsize=2):
    W = param(np.zeros(3))
    return W, ADAM(0.1), DataLoader((X, Y), batchsize=batchsize, shuffle=True, rng=0)


def go_on(W, opt, loader, epochs=1, before=lambda: None, cb=None):
    def loss(x, y):
        before()
        return np.mean((x @ W - y) ** 2)

    train(loss, params(W), loader, opt, epochs=epochs, cb=cb)
    return W.value.tobytes(), steps_of(W, opt)


def steps_of(W, opt):
    return opt.state[W]["clock"][0] if W in opt.state else 0


def resumed(W, opt, loader):
    another = DataLoader((X, Y), batchsize=loader.batchsize, shuffle=True, rng=9)
    another.state = loader.state
    return W, opt, another


def nth(n, act):
    """Make a function that does something in its n-th call."""
    calls = iter(range(1, 10**6))
    return lambda: act() if next(calls) == n else None


def fail():
    raise RuntimeError


ENDS = {"an exception": fail, "Ctrl-C": lambda: signal.raise_signal(signal.SIGINT), "stop": stop}


@pytest.mark.parametrize("place", ["before", "cb"])
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("at", [1, 4, 6, 7, 9, 12])
def test_a_training_that_ends_amid_an_epoch_and_goes_on_is_the_one_that_did_not(end, at, place):
    run = start()
    with suppress(RuntimeError, KeyboardInterrupt):
        go_on(*run, epochs=2, **{place: nth(at, end)})
    taken = at - (place == "before")
    assert steps_of(*run[:2]) == taken
    done = (taken - (place == "cb")) // 6  # after its last step an epoch still has its end to come
    assert go_on(*resumed(*run), epochs=2 - done) == go_on(*start(), epochs=2)


class Twice(DataLoader):
    """Goes through its data twice."""

    def __iter__(self):
        for _ in range(2):
            yield from super().__iter__()


@pytest.mark.parametrize("at", [1, 5, 6, 8, 12])
def test_each_pass_of_a_loaders_own_iteration_counts(at):
    loader, W = Twice((X, Y), batchsize=2), param(np.zeros(3))
    with suppress(RuntimeError):
        go_on(W, ADAM(), loader, cb=nth(at, lambda: [*loader] and fail()))
    assert loader.state["batches"] == (at % 6 or 6)


LOOKS = {
    "all": lambda loader: [*loader],
    "some": lambda loader: next(iter(loader)),
    "train": lambda loader: go_on(param(np.ones(3)), ADAM(), loader),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
@pytest.mark.parametrize("when", ["cb", "each_epoch"])
@pytest.mark.parametrize("at", [1, 4, 6, 8, 12])
def test_a_callback_may_go_through_the_data_of_the_training(look, when, at):
    """What it goes through does not count: the run that goes on equals the one that never stopped."""

    def run(*ends):
        W, opt, loader = start()
        heard: dict[str, list[float]] = {"cb": [], "each_epoch": []}

        def hear(kind, loss):
            heard[kind].append(loss)
            if kind == when:
                look(loader)
            if len(heard[kind]) in ends:
                fail()

        while len(heard["each_epoch"]) < 2:
            with suppress(RuntimeError):
                train(
                    lambda x, y: np.mean((x @ W - y) ** 2), params(W), loader, opt,
                    epochs=2 - len(heard["each_epoch"]),
                    cb=lambda progress: hear("cb", progress.loss),
                    each_epoch=lambda progress: hear("each_epoch", progress.loss),
                )  # fmt: skip
            W, opt, loader = resumed(W, opt, loader)
        return heard, W.value.tolist()

    assert run(at) == run()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("at", range(1, 13))
def test_callbacks_hear_of_each_step_and_epoch_once_however_the_training_ends(end, at, compiled):
    def run(*ends):
        W, opt, loader = start()
        heard: dict[str, list[float]] = {"steps": [], "epochs": []}
        acts = iter(ends)
        original = opt.coefficients

        def amid_the_step(*clock):
            if clock[0] == at and next(acts, None):
                signal.raise_signal(signal.SIGINT)
            return original(*clock)

        def cb(progress):
            heard["steps"].append(progress.loss)
            if len(heard["steps"]) == at and (act := next(acts, None)) is not None:
                act()

        def each_epoch(progress):
            heard["epochs"].append(progress.loss)

        if end is not stop and end is not fail:
            vars(opt)["coefficients"] = amid_the_step
        loss = lambda x, y: np.mean((x @ W - y) ** 2)
        while len(heard["epochs"]) < 2:
            epochs = 2 - len(heard["epochs"])
            with suppress(RuntimeError, KeyboardInterrupt):
                train(
                    loss, params(W), loader, opt,
                    cb=cb, each_epoch=each_epoch, epochs=epochs, compiled=compiled,
                )  # fmt: skip
                if len(heard["epochs"]) == 2:
                    break
            W, opt, loader = resumed(W, opt, loader)
        return heard, W.value.tolist()

    assert run(end) == run()


def test_the_state_amid_an_epoch_is_no_longer_after_many_steps():
    rng = np.random.default_rng(0)
    loader, sizes = DataLoader(rng.normal(size=2000) * 10.0 ** rng.integers(-300, 300, 2000)), []
    W = param(0.0)
    note = lambda: sizes.append(len(repr(loader.state)))
    losses = train(lambda x: W * 0 + x[0], params(W), loader, ADAM(0.0), cb=note)
    assert max(sizes) < min(sizes) + 1000
    losses = losses[: len(losses) // 2]
    heard = []
    with suppress(RuntimeError):
        train(lambda x: W * 0 + x[0], params(W), loader, ADAM(0.0), cb=nth(1000, fail))
    loader.state = pickle.loads(pickle.dumps(loader.state))
    train(lambda x: W * 0, params(W), loader, ADAM(0.0), each_epoch=lambda p: heard.append(p.loss))
    assert heard == [math.fsum(losses) / 2000]


@pytest.mark.parametrize("place", ["before", "cb"])
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("at", [1, 2, 3, 6])
@pytest.mark.parametrize("batches", [0, 1, 3, 6])
def test_a_state_that_is_set_within_a_training_that_ends_is_the_one_set_after_it(batches, at, end, place):
    W, opt, loader = start()
    other = start()[2]
    for _ in zip(range(batches), other, strict=False):
        pass
    other.state = other.state | ({"losses": (batches, [0.5])} if batches else {})
    state = other.state

    def set_and_end():
        loader.state = state
        end()

    with suppress(RuntimeError, KeyboardInterrupt):
        go_on(W, opt, loader, **{place: nth(at, set_and_end)})
    assert loader.state == state
    assert [y.tolist() for _, y in loader] == [y.tolist() for _, y in other]


@pytest.mark.parametrize("read", ["before", "cb"])
@pytest.mark.parametrize("at", [1, 2, 5, 6])
def test_the_state_within_a_training_has_the_batches_whose_steps_were_taken(at, read):
    """What the loss or a callback saves, beside the parameters as they are, goes on as the run does."""
    W, opt, loader = start()
    kept = []

    def keep():
        kept.append((pickle.loads(pickle.dumps(loader)), loader.state))

    go_on(W, opt, loader, **{read: keep})
    copied, state = kept[at - 1]
    assert state["batches"] == at - (read == "before")
    assert copied.state == state
    rest = [y.tolist() for _, y in copied]
    assert rest == [y.tolist() for _, y in start()[2]][state["batches"] :]


@pytest.mark.parametrize("at", range(1, 7))
@pytest.mark.parametrize("place", ["before", "cb"])
def test_a_training_whose_state_is_set_to_an_earlier_one_and_that_goes_on_tells_of_itself(place, at):
    def run(put=lambda loader: None, end=None):
        W, opt, loader = start()
        done, epochs = count(1), []

        def fail_at():
            if next(done) == end:
                fail()

        act = {place: nth(at, lambda: put(loader)), {"before": "cb", "cb": "before"}[place]: fail_at}
        before = act["before"]

        def loss(x, y):
            before()
            return np.mean((x @ W - y) ** 2)

        with suppress(RuntimeError):
            train(loss, params(W), loader, opt, cb=act["cb"], each_epoch=lambda p: epochs.append(p.loss))
        if not epochs:
            W, opt, loader = resumed(W, opt, loader)
            train(
                lambda x, y: np.mean((x @ W - y) ** 2), params(W), loader, opt,
                each_epoch=lambda p: epochs.append(p.loss),
            )  # fmt: skip
        return W.value.tolist(), epochs

    def put(loader):
        begin = start()[2].state["rng"]
        loader.state = loader.state | {"begin": begin, "batches": 1, "losses": (1, [1e9])}

    for end in range(at + 2 * (place == "cb"), 7):  # a step has been taken since
        assert run(put, end) == run()


@pytest.mark.parametrize("where", ["cb", "each_epoch", "source"])
def test_a_state_that_is_set_at_the_end_of_an_epoch_holds_for_the_next(where):
    """Also if the next ends before its first batch has come."""
    loader, seen = DataLoader(Samples(6, float), 2), []
    next(iter(loader))
    state, a = loader.state, param(0.0)

    def put():
        loader.state = state
        if where == "source":
            loader.data.make = None

    def go():
        train(
            lambda x: seen.append(float(x[0])) or (a - x[0]) ** 2, params(a), loader, ADAM(), epochs=2,
            **{"cb" if where == "cb" else "each_epoch": nth(3 if where == "cb" else 1, put)},
        )  # fmt: skip

    if where == "source":
        with pytest.raises(TypeError):
            go()
        assert loader.state == state
    else:
        go()
        assert seen == [0, 2, 4, 2, 4]


def test_a_batch_that_was_skipped_is_not_given_again():
    def in_turn(*acts):
        acts = iter(acts)
        return lambda: next(acts, lambda: None)()

    run = start()
    with pytest.raises(RuntimeError):
        go_on(*run, before=in_turn(skip, lambda: None, skip, fail))
    assert run[2].state["batches"] == 3
    expected = go_on(*start(), before=in_turn(skip, lambda: None, skip))
    assert go_on(*resumed(*run)) == expected
    assert expected[1] == 4


def test_an_interrupt_at_any_bytecode_of_a_loader_loses_no_batch():
    expected = go_on(*start(batchsize=4), epochs=2)
    for n in count(1):
        W, opt, loader = start(batchsize=4)
        try:
            with pressed_at(n, "minidiff/data.py"):
                go_on(W, opt, loader, epochs=2)
            break
        except KeyboardInterrupt:
            steps, batches = steps_of(W, opt), loader.state["batches"]
            assert batches == steps % 3 or (batches, steps % 3) == (3, 0)
            done = (steps - batches) // 3
            result = (
                go_on(*resumed(W, opt, loader), epochs=2 - done) if done < 2 else go_on(W, opt, loader, 0)
            )
            assert result == expected
    assert n > 500


# Sources that are read when a batch comes ----------------------------------------------------------


class Stored:
    """As an HDF5 data set: it gives rows in rising order, and can tell all that was read."""

    def __init__(self, values):
        self._values, self.read = values, []
        self.shape, self.dtype = values.shape, values.dtype

    def __len__(self):
        return len(self._values)

    def __getitem__(self, rows):
        assert isinstance(rows, slice) or np.all(np.diff(rows) > 0)
        self.read.append(len(self._values[rows]))
        return self._values[rows]

    def __array__(self, dtype=None, copy=None):
        raise AssertionError("read as a whole")


class Samples:
    """Gives what a function makes of a place, one by one."""

    def __init__(self, n, make):
        self.n, self.make, self.read = n, make, []

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        assert type(i) is int
        assert 0 <= i < self.n
        self.read.append(i)
        return self.make(i)


@given(**SIZES, shuffle=st.booleans(), partial=st.booleans())
def test_stored_rows_and_samples_come_as_an_arrays_do(n, batchsize, shuffle, partial):
    x = np.arange(2.0 * n).reshape(n, 2)
    stored, listed, single = Stored(x), list(x), Samples(n, lambda i: x[i])
    rest = batchsize, shuffle, partial, 3
    loaders = [DataLoader(data, *rest) for data in (x, stored, listed, single, (x, stored), {"s": single})]
    for _ in range(2):
        for a, b, c, d, (e, f), g in zip(*loaders, strict=True):
            for other in (b, c, d, e, f, g["s"]):
                np.testing.assert_array_equal(a, other)
                assert a.dtype == other.dtype
    assert max(stored.read, default=0) <= batchsize


def test_nothing_is_read_before_its_batch_comes():
    stored, samples = Stored(np.zeros((1000, 4))), Samples(1000, lambda i: (np.ones(3) * i, i))
    loader = DataLoader((stored, Samples(1000, float)), 10, shuffle=True)
    list(zip(range(3), loader, strict=False))
    assert stored.read == [10, 10, 10]
    x, i = next(iter(DataLoader(samples, 4)))
    assert samples.read == [0, 1, 2, 3]
    assert x.shape == (4, 3)
    assert i.tolist() == [0, 1, 2, 3]


Pair = namedtuple("Pair", ["x", "y"])


def test_samples_are_put_together_in_their_own_structure():
    listed = [{"x": np.full((2, 2), i, "f4"), "y": (i, str(i))} for i in range(5)]
    batch = next(iter(DataLoader(listed, 3)))
    assert batch["x"].shape == (3, 2, 2)
    assert batch["x"].dtype == np.float32
    assert batch["y"][0].tolist() == [0, 1, 2]
    assert batch["y"][1].tolist() == ["0", "1", "2"]
    batch = next(iter(DataLoader([Pair(i, [i, i]) for i in range(5)], 2)))
    assert type(batch) is Pair
    assert batch.y.tolist() == [[0, 0], [1, 1]]
    assert next(iter(DataLoader([1, 2.5, 3], 2))).tolist() == [1.0, 2.5]
    assert next(iter(DataLoader([True, False, True], 2))).tolist() == [True, False]


def test_named_tuples_of_arrays_give_named_tuples():
    for batch in DataLoader(Pair(np.arange(4), -np.arange(4)), 2, shuffle=True):
        assert type(batch) is Pair
        np.testing.assert_array_equal(batch.x, -batch.y)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("form", ["csr", "csc", "coo"])
def test_sparse_matrices_are_read_by_rows_and_stay_sparse(form, shuffle):
    sparse = pytest.importorskip("scipy.sparse")
    x = sparse.random(10, 4, 0.4, form, random_state=0)
    for batch, (dense, i) in zip(
        DataLoader((x, np.arange(10)), 3, shuffle, rng=1),
        DataLoader((x.toarray(), np.arange(10)), 3, shuffle, rng=1),
        strict=True,
    ):
        np.testing.assert_array_equal(batch[0].toarray(), dense)
        assert batch[1].tolist() == i.tolist()


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(
    "data",
    [list, deque, lambda x: Samples(len(x), lambda i: x[i]), Stored],
    ids=["list", "deque", "samples", "rows"],
)
def test_masks_of_samples_are_kept(data, shuffle):
    whole, y = np.ma.array(np.arange(12.0).reshape(6, 2), mask=np.arange(12) % 5 == 1), np.arange(6)
    for a, (b, i) in zip(
        DataLoader(whole, 4, shuffle, rng=0), DataLoader((data(whole), y), 4, shuffle, rng=0), strict=True
    ):
        assert b.mask.tolist() == a.mask.tolist() == whole.mask[i].tolist()
        assert b.tolist() == a.tolist()
        assert b.dtype == a.dtype
    mixed = next(iter(DataLoader([np.ma.masked, 2.0, np.ones(())], 3)))
    assert mixed.tolist() == [None, 2.0, 1.0]


@pytest.mark.parametrize(
    ("data", "shapes"),
    [
        ([np.ones(3), np.ones(4)], r"\(3,\), \(4,\)"),
        ([[1, 2], [3]], r"\(2,\), \(1,\)"),
        ([[[1], [2, 3]], [[4], [5]]], "ragged list"),
        ([(np.ones(3), 1), (np.ones(4), 2)], r"\(3,\), \(4,\)"),
        ([np.ones((5, 2)), np.ones(5)], r"\(5, 2\), \(5,\).*DataLoader\(\(x, y\), …\)"),
    ],
)
def test_ragged_samples_are_refused_with_their_shapes(data, shapes):
    with pytest.raises(ValueError, match=f"differ in shape, {shapes}"):
        list(DataLoader(data, 2))
    assert len(list(DataLoader([np.ones(3), np.ones(4)], 1))) == 2


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ([{"a": 1}, {"b": 2}], "a dict of 'a' and a dict of 'b'"),
        ([{"a": 1}, {}], "a dict of 'a' and a dict of nothing"),
        ([{"a": 1}, 2.0], r"a dict of 'a' and \(\)"),
        ([np.ones(2), {"a": 1}], r"\(2,\) and a dict of 'a'"),
        ([({"a": 1}, 1), ({"b": 1}, 2)], "a dict of 'a' and a dict of 'b'"),
        ([None, 1.0], r"None and \(\)"),
        ([{"a": None}, {"a": None}], "None$"),
        ([object(), object()], "object <object"),
    ],
)
def test_samples_that_make_no_array_are_refused_with_what_they_are(data, what):
    with pytest.raises(TypeError, match=f"arrays of one shape, or tuples or dicts of such, got .*{what}"):
        list(DataLoader(data, 2))


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("kind", [list, deque])
@pytest.mark.parametrize("size", [0, 3, 5])
def test_data_that_have_become_more_or_fewer_are_refused(size, kind, shuffle):
    data = kind(np.arange(4.0)[:, None])
    loader = DataLoader({"x": data}, 2, shuffle, rng=0)
    before = loader.state
    while len(data) != size:
        data.pop() if len(data) > size else data.append(np.zeros(1))
    with pytest.raises(ValueError, match=f"data has {size} samples now, and had 4 .*make another"):
        list(loader)
    assert loader.state == before
    pairs = DataLoader((data, list(data)), 2) if size else None
    while len(data) != 4:
        data.pop() if len(data) > 4 else data.append(np.zeros(1))
    assert len([*loader]) == 2  # as it was
    if pairs is not None:
        with pytest.raises(ValueError, match="same number of samples"):
            list(pairs)


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_list_may_grow_amid_an_iteration_but_not_shrink(shuffle):
    data = list(np.arange(4.0)[:, None])
    loader = DataLoader(data, 2, shuffle, rng=0)
    batches = iter(loader)
    first = next(batches)
    data.append(np.full(1, 4.0))
    assert sorted(np.ravel([first, *batches])) == [0, 1, 2, 3]
    batches = iter(DataLoader(data, 2, shuffle, rng=0))
    next(batches)
    data.clear()
    with pytest.raises(ValueError, match="data has 0 samples now, and had 5"):
        next(batches)


def test_arrays_that_hold_objects_are_handed_on():
    batch = next(iter(DataLoader([np.array([None, "a"])] * 3, 2)))
    assert batch.tolist() == [[None, "a"]] * 2


def test_samples_that_are_lists_of_unlike_arrays_should_be_tuples():
    with pytest.raises(ValueError, match=r"ragged list.*A sample of several parts is a tuple"):
        list(DataLoader([[np.ones(3), 0.0], [np.ones(3), 1.0]], 2))


def test_a_data_frame_is_the_array_it_converts_to():
    class Frame:  # as of pandas: indexing gives columns
        iloc, shape = None, (4, 2)

        def __len__(self):
            return 4

        def __getitem__(self, name):
            raise KeyError(name)

        def __array__(self, dtype=None, copy=None):
            return np.arange(8).reshape(4, 2)

    assert [batch.tolist() for batch in DataLoader(Frame(), 3)] == [[[0, 1], [2, 3], [4, 5]], [[6, 7]]]


@pytest.mark.parametrize("copied", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy])
def test_a_copy_amid_an_epoch_gives_the_rest_of_it(copied):
    loader = DataLoader(np.arange(12), 5, shuffle=True, rng=3)
    batches = iter(loader)
    next(batches)
    another = copied(loader)
    rest = [batch.tolist() for batch in batches]
    assert [batch.tolist() for batch in another] == rest
    assert orders(another) == orders(loader)


def test_a_source_that_fails_comes_through_and_its_batch_is_not_counted():
    class BrokenError(Exception):
        pass

    def make(i):
        if i == 3 and not mended:
            raise BrokenError
        return float(i)

    mended, a, seen = False, param(0.0), []
    loader = DataLoader(Samples(5, make), shuffle=False)

    def loss(x):
        seen.append(float(x[0]))
        return np.sum((a - x) ** 2)

    with pytest.raises(BrokenError):
        train(loss, params(a), loader, ADAM())
    state, mended = loader.state, True
    loader.state = state
    train(loss, params(a), loader, ADAM())
    assert seen == [0, 1, 2, 3, 4]


@given(st.integers(0, 40), st.integers(1, 12), st.integers(1, 7), st.booleans(), st.booleans())
def test_the_parts_of_all_shards_are_the_batch(n, batchsize, size, shuffle, partial):
    whole, *parts = [DataLoader(np.arange(n), batchsize, shuffle, partial, rng=5) for _ in range(size + 1)]
    shards = [loader.shard(rank, size) for rank, loader in enumerate(parts)]
    assert all(len(shard) == len(whole) for shard in shards)
    for _ in range(2):
        batches = [[(part, shard.weight) for part in shard] for shard in shards]
        for batch, *of_all in zip(whole, *batches, strict=True):
            assert np.concatenate([part[:weight] for part, weight in of_all]).tolist() == batch.tolist()
            weights = [weight for _, weight in of_all]
            assert max(weights) - min(weights) <= 1
            assert all(len(part) == max(weight, 1) and set(part) <= set(batch) for part, weight in of_all)


def test_a_shard_reads_its_part_alone():
    class Samples:
        read = []  # noqa: RUF012

        def __len__(self):
            return 10

        def __getitem__(self, i):
            self.read.append(i)
            return np.array(i)

    assert [b.tolist() for b in DataLoader(Samples(), 4).shard(1, 2)] == [[2, 3], [6, 7], [9]]
    assert Samples.read == [2, 3, 6, 7, 9]


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_shard_goes_on_as_others(again):
    """The state is the whole loader's: two batches on two shards, the rest on three."""
    whole = [b.tolist() for b in DataLoader(np.arange(23), 5, True, rng=1)]
    shard = DataLoader(np.arange(23), 5, True, rng=1).shard(0, 2)
    batches = iter(shard)
    assert [next(batches).tolist() for _ in range(2)] == [batch[:2] for batch in whole[:2]]
    state, rest = shard.state, []
    assert [b.tolist() for b in again(shard)] == [batch[: len(batch) // 2] for batch in whole[2:]]
    for rank in range(3):
        other = DataLoader(np.arange(23), 5, True, rng=9).shard(rank, 3)
        other.state = state
        rest.append([b.tolist() for b in other])
    assert [a + b + c for a, b, c in zip(*rest, strict=True)] == whole[2:]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("taken", [0, 1, 3, 5])
@pytest.mark.parametrize("is_set", [False, True])
def test_a_shard_begins_where_the_whole_would(is_set, taken, shuffle):
    loader, other = (DataLoader(np.arange(9), 2, shuffle, rng=0) for _ in range(2))
    for one in (loader, other):
        for _ in zip(range(taken), one, strict=False):
            pass
        if is_set:
            one.state = one.state
    part = loader.shard(0, 1)
    assert part.state == loader.state
    assert orders(part) == orders(other)


def test_an_unseeded_shard_is_not_set_to_shuffle():
    """Each process would have an order of its own: samples would come twice, and others not at all."""
    data = np.arange(8)
    part = DataLoader(data, 4).shard(1, 2)
    with pytest.raises(ValueError, match=r"with shuffle=True .*give all the same seed.*loader.rng = 0"):
        part.shuffle = True
    assert part.shuffle is False
    part.shuffle = False
    part.rng, part.shuffle = 0, True
    rng = part.rng
    with pytest.raises(ValueError, match="give all the same seed"):
        part.rng = None
    assert part.rng is rng
    parts = [DataLoader(data, 4).shard(k, 2) for k in range(2)]
    for one in parts:
        one.rng, one.shuffle = 0, True
    assert sorted(i for one in parts for batch in one for i in batch) == data.tolist()
    alone = DataLoader(data, 4).shard(0, 1)
    alone.shuffle = True
    whole = DataLoader(data, 4, rng=0)
    next(iter(whole))
    whole.shuffle = True
    parts = [DataLoader(data, 4).shard(k, 2) for k in range(2)]
    for one in parts:
        one.state = whole.state  # it brings the generator's
    for batches in [[4, 5, 6, 7]], [b.tolist() for b in whole]:
        assert [a.tolist() + b.tolist() for a, b in zip(*parts, strict=True)] == batches


def test_what_cannot_be_a_shard_is_refused():
    loader = DataLoader(np.arange(9), 3)
    for rank, size, error, message in (
        (2, 2, ValueError, "rank must be less than size, 2, got 2"),
        (-1, 2, ValueError, "rank must be at least 0"),
        (0, 0, ValueError, "size must be at least 1"),
        ("0", 2, TypeError, "rank must be an integer"),
    ):
        with pytest.raises(error, match=message):
            loader.shard(rank, size)
    with pytest.raises(ValueError, match="make shards of the whole loader"):
        loader.shard(0, 2).shard(0, 2)
    with pytest.raises(ValueError, match="give all the same seed"):
        DataLoader(np.arange(9), 3, shuffle=True).shard(0, 2)
    assert "shard 1 of 2" in repr(loader.shard(1, 2))
    assert len([*DataLoader(np.arange(9), 3, shuffle=True).shard(0, 1)]) == 3


@pytest.mark.parametrize(
    ("option", "advice"),
    [
        ("batch_size", "write batchsize="),
        ("drop_last", "write partial=, its opposite"),
        ("seed", "write rng="),
        ("workers", "write batchsize, shuffle, partial and rng"),
    ],
)
def test_an_option_of_another_librarys_loader_is_named(option, advice):
    with pytest.raises(TypeError, match=f"no option '{option}': {advice}"):
        DataLoader(np.ones(3), **{option: 2})
