"""Checkpoints: what is saved comes back to the last bit, or not at all."""

import builtins
import copy
import errno
import json
import os
import pickle
import stat
import subprocess
import sys
import zipfile
from collections import deque, namedtuple
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from minidiff import checkpoint, gradient, param, params
from minidiff.checkpoint import load, save
from minidiff.data import DataLoader
from minidiff.iddict import IdDict
from minidiff.losses import mse
from minidiff.optimise import (
    ADAM,
    ADAMW,
    NADAM,
    OADAM,
    RADAM,
    AbstractOptimiser,
    AdaBelief,
    ADADelta,
    ADAGrad,
    AdaMax,
    AMSGrad,
    ClipNorm,
    ClipValue,
    Descent,
    ExpDecay,
    InvDecay,
    Momentum,
    Nesterov,
    Optimiser,
    RMSProp,
    Rule,
    WeightDecay,
    train,
    update,
)
from minidiff.schedules import CosAnneal, Exp, Scheduler, Stateful

tmp_files = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.npz"


def same(a, b):
    """Tell whether two values are equal in type, structure and every bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (np.ndarray, np.generic)):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.random.Generator):
        return same(a.bit_generator.state, b.bit_generator.state)
    return repr(a) == repr(b)  # -0.0 and NaN too


# Optimisers ---------------------------------------------------------------------------------------


class Custom(AbstractOptimiser):
    """The page's Momentum, with more to remember than it needs."""

    def __init__(self, eta=0.1, rho=0.9):
        self.eta, self.rho, self.velocity, self.rng = eta, rho, IdDict(), np.random.default_rng(3)
        self.schedule, self.history, self.last = Stateful(Exp(1.0, 0.9)), [], None

    def apply(self, x, Δ):
        v, t = self.velocity.setdefault(x, (np.zeros_like(x), 0))
        v[...] = self.rho * v - self.eta * next(self.schedule) * Δ + 0.01 * self.rng.normal()
        self.velocity[x] = v, t + 1
        self.history.append((t, float(abs(np.sum(v)))))
        self.added_in_a_step = {"sum": self.history[-1]}
        self.last = v
        return -v * len(self.history)


class KeptInDict(AbstractOptimiser):
    """A momentum in a plain dict, keyed by the parameters as PyTorch users might."""

    def __init__(self):
        self.state, self.all, self.latest = {}, params(), None

    def apply(self, x, Δ):
        self.all.add(x)
        self.latest = x
        v = self.state.setdefault(x, np.zeros_like(x))
        v[...] = 0.9 * v + Δ
        return 0.1 * v


def shared():
    rule = Momentum(0.1)
    return Optimiser(rule, Optimiser(WeightDecay(0.1), rule))


OPTIMISERS = {
    rule.__name__: rule
    for rule in (ADAM, NADAM, OADAM, RADAM, AdaBelief, ADADelta, ADAGrad, AdaMax, AMSGrad, Descent, Momentum)
} | {
    "Nesterov": Nesterov,
    "RMSProp": RMSProp,
    "ADAMW": lambda: ADAMW(0.01, (0.9, 0.999), 0.1),
    "clipped": lambda: Optimiser(ClipNorm(0.5), ClipValue(0.4), ADAM()),
    "decayed": lambda: Optimiser(ADAM(), ExpDecay(1.0, 0.5, 2, 1e-4), InvDecay(0.1)),
    "nested": lambda: Optimiser(Optimiser(Momentum(), Optimiser(ADAM())), WeightDecay(0.01)),
    "scheduled": lambda: Scheduler(CosAnneal(0.1, 1.0, period=3), Momentum()),
    "scheduled composition": lambda: Scheduler(
        Exp(0.1, 0.5), Optimiser(ClipNorm(1.0), ADAM()), update=lambda opt, eta: setattr(opt[1], "eta", eta)
    ),
    "schedule in a composition": lambda: Optimiser(ClipNorm(1.0), Scheduler(lambda t: 1 / t, RMSProp())),
    "shared": shared,
    "custom": Custom,
    "custom in a composition": lambda: Optimiser(ClipNorm(1.0), Custom()),
    "kept in a dict": KeptInDict,
}


def model():
    return params(
        param(np.arange(6.0).reshape(2, 3)),
        param(np.ones(4), np.float32),
        param(0.5),
        param(np.array([1 + 2j])),
        param(np.asfortranarray(np.ones((3, 2)))),
        param(np.zeros((0, 2))),
    )


def step(ps, opt, seed):
    """Take a step with random gradients; every third leaves the first parameter out."""
    rng = np.random.default_rng(seed)
    gs = {p: rng.normal(size=p.shape) for p in ps}
    update(opt, ps, gs if seed % 3 else gs | {ps[0]: None})


def bits(ps):
    return [p.value.tobytes() for p in ps]


@pytest.mark.parametrize("make", OPTIMISERS.values(), ids=OPTIMISERS)
def test_training_goes_on_from_a_checkpoint_as_if_nothing_had_been(make, path):
    ps, opt = model(), make()
    for seed in range(5):
        step(ps, opt, seed)
    save(path, ps, opt)

    fresh, other = model(), make()
    step(fresh, other, 99)  # whatever it knows is forgotten
    load(path, fresh, other)
    assert bits(fresh) == bits(ps)
    for seed in range(5, 10):
        step(ps, opt, seed)
        step(fresh, other, seed)
        assert bits(fresh) == bits(ps)


def test_all_hyperparameters_come_back_as_they_stood(path):
    ps, opt = model(), Optimiser(ADAM(), ExpDecay(1.0, 0.5, 1, 1e-4))
    for seed in range(3):
        step(ps, opt, seed)
    opt[0].eta, opt[0].beta = 0.5, (0.1, 0.2)
    save(path, ps, opt)
    other = Optimiser(ADAM(0.3), ExpDecay())
    load(path, ps, other)
    assert repr(other) == repr(opt)
    assert other[1].eta == 1 / 8


def test_state_of_parameters_outside_is_neither_saved_nor_touched(path):
    a, b = param(1.0), param(2.0)
    opt = Momentum()
    update(opt, params(a, b), {a: 1.0, b: 1.0})
    save(path, params(a), opt)
    c, other = param(0.0), Momentum()
    update(other, b, 5.0)
    update(other, c, 7.0)
    before = copy.deepcopy(other.state[b])
    load(path, params(c), other)
    assert len(other.state) == 2
    assert same(other.state[b], before)
    assert same(other.state[c], opt.state[a])


def test_state_that_the_file_lacks_is_forgotten(path):
    a = param(1.0)
    save(path, params(a), Momentum())
    opt = Momentum()
    update(opt, a, 1.0)
    load(path, params(a), opt)
    assert len(opt.state) == 0


def test_a_generator_in_an_optimiser_stays_the_same_object(path):
    opt = Custom()
    save(path, model(), opt)
    rng = opt.rng
    expected = rng.normal(size=3)
    load(path, model(), opt)
    assert opt.rng is rng
    np.testing.assert_array_equal(rng.normal(size=3), expected)


def test_an_array_in_two_places_is_one_array_again(path):
    opt, a = Custom(), param(1.0)
    update(opt, a, 1.0)
    assert opt.last is opt.velocity[a][0]
    save(path, params(a), opt)
    other = Custom()
    load(path, params(a), other)
    assert other.last is other.velocity[a][0]


def test_parameters_that_an_optimiser_holds_are_those_loaded(path):
    ps, opt = model(), KeptInDict()
    step(ps, opt, 1)
    save(path, ps, opt)
    fresh, other = model(), KeptInDict()
    load(path, fresh, other)
    assert other.all == fresh
    assert other.latest is fresh[-1]
    assert list(map(id, other.state)) == list(map(id, fresh))


def test_parameters_are_loaded_in_place_and_without_an_optimiser(path):
    ps = model()
    values = [p.value for p in ps]
    save(path, ps, ADAM())
    for p in ps:
        p[...] = 7
    assert load(path, ps) == {}
    assert all(p.value is value for p, value in zip(ps, values, strict=True))
    assert bits(ps) == bits(model())


# Arrays and extra ---------------------------------------------------------------------------------

NUMBERS = st.sampled_from(["f2", "f4", "f8", ">f8", "c8", "c16"]).map(np.dtype)


@given(
    data=st.data(),
    dtype=NUMBERS,
    shape=array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3),
    order=st.sampled_from("CF"),
)
@tmp_files
def test_parameters_of_every_shape_and_dtype_come_back_to_the_bit(tmp_path, data, dtype, shape, order):
    size = int(np.prod(shape)) * dtype.itemsize
    raw = data.draw(st.binary(min_size=size, max_size=size))  # any bits: signed zeros, NaNs with a payload
    a = np.asarray(np.frombuffer(raw, dtype).reshape(shape), order=order)
    p, q = param(a, dtype), param(np.ones(shape), dtype)
    save(tmp_path / "a", [p])
    load(tmp_path / "a", [q])
    assert q.value.tobytes() == p.value.tobytes() == a.tobytes()


ARRAYS = st.one_of(
    arrays(
        st.sampled_from(["?", "i1", "u8", "f4", "c16", "M8[s]", "S3", "U2"]).map(np.dtype),
        array_shapes(min_dims=0, min_side=0),
    ),
    st.sampled_from(
        [
            np.arange(6).reshape(2, 3)[:, ::2],
            np.asfortranarray(np.arange(6.0).reshape(2, 3)),
            np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", ">f8")]),
            np.broadcast_to(1.0, (2, 2)),
            np.float32(1.5),
            np.int8(-1),
            np.bool_(True),
            np.str_("x"),
            np.datetime64("2020-01-01"),
            np.complex64(1j),
        ]
    ),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**200), 2**200),
    st.floats(),
    st.complex_numbers(),
    st.text(),
    st.binary(),
)
VALUES = st.recursive(
    st.one_of(SCALARS, ARRAYS),
    lambda part: st.one_of(
        st.lists(part, max_size=3),
        st.lists(part, max_size=3).map(tuple),
        st.dictionaries(
            st.one_of(st.text(max_size=5), st.integers(), st.tuples(st.integers(), st.text(max_size=2))),
            part,
            max_size=3,
        ),
    ),
    max_leaves=6,
)


@given(VALUES)
@tmp_files
def test_whatever_is_given_as_extra_comes_back_the_same(tmp_path, value):
    save(tmp_path / "a", [], None, value=value, manifest=1, checksum=(value,))
    extra = load(tmp_path / "a", [])
    assert list(extra) == ["value", "manifest", "checksum"]
    assert same(extra["checksum"], (value,)) or isinstance(value, np.ndarray)
    assert (
        same(np.asarray(extra["value"]), np.asarray(value))
        if isinstance(value, np.ndarray)
        else same(extra["value"], value)
    )


def test_text_that_is_no_proper_unicode_comes_back(path):
    save(path, [], text="\ud800 \0 é 😀")
    assert load(path, [])["text"] == "\ud800 \0 é 😀"


@pytest.mark.parametrize("kind", ["MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"])
def test_generators_go_on_where_they_stood(kind, path):
    rng = np.random.Generator(getattr(np.random, kind)(7))
    rng.integers(0, 9, 5, dtype=np.uint32)  # leaves half a word behind
    save(path, [], rng=rng, state=rng.bit_generator.state, both=[rng, {"x": rng}])
    expected = rng.normal(size=4)
    extra = load(path, [])
    np.testing.assert_array_equal(extra["rng"].normal(size=4), expected)
    rng.bit_generator.state = extra["state"]
    np.testing.assert_array_equal(rng.normal(size=4), expected)
    rng.bit_generator.state = extra["both"][1]["x"].bit_generator.state
    np.testing.assert_array_equal(rng.normal(size=4), expected)


Point = namedtuple("Point", "x y")
cycle = []
cycle.append(cycle)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (object(), TypeError, "x cannot be stored.*it is a object"),
        ([1, {"a": print}], TypeError, r"x\[1\]\['a'\] cannot be stored"),
        ({print: 1}, TypeError, "a key of x cannot be stored"),
        (ADAM(), TypeError, "as opt: save"),
        (param(1.0), TypeError, "p.value"),
        (Point(1, 2), TypeError, "it is a Point"),
        ({1, 2}, TypeError, "it is a set"),
        (deque([1]), TypeError, "it is a deque"),
        (np.array([None, "a"]), TypeError, "array of dtype"),
        (np.ma.masked_array([1.0], [True]), TypeError, "it is a MaskedArray"),
        (np.random.RandomState(0), TypeError, "it is a RandomState"),
        (cycle, ValueError, "holds itself"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_stored_is_named_and_nothing_is_written(path, value, error, message):
    with pytest.raises(error, match=message):
        save(path, model(), ADAM(), fine=1, x=value)
    assert os.listdir(path.parent) == []


def test_an_optimiser_that_cannot_be_stored_is_told_where(path):
    opt = Custom()
    opt.jobs = [deque()]
    with pytest.raises(TypeError, match=r"opt\.jobs\[0\] cannot be stored"):
        save(path, model(), opt)
    opt = Custom()
    opt.eta = param(0.1)
    with pytest.raises(TypeError, match=r"opt\.eta cannot be stored.*not in ps"):
        save(path, model(), opt)
    for wrong in (ADAM, {"eta": 1}, "opt"):
        for use in (save, load):
            with pytest.raises(TypeError, match="opt must be an optimiser"):
                use(path, model(), wrong)
    opt = Custom()
    opt.seen = {print: 2}
    with pytest.raises(TypeError, match=r"a key of opt\.seen cannot be stored"):
        save(path, model(), opt)
    assert os.listdir(path.parent) == []


def test_any_numpy_reads_the_file_without_pickle_and_it_says_what_it_is(path):
    ps = model()
    save(path, ps, Momentum(), note="é")
    with np.load(path, allow_pickle=False) as file:
        contents = {name: file[name] for name in file.files}
    manifest = json.loads(contents["manifest"].tobytes())
    assert manifest["format"] == "minidiff checkpoint"
    assert manifest["version"] == 1
    assert contents["checksum"].size == 32
    assert all(contents[f"parameters/{i}"].tobytes() == p.value.tobytes() for i, p in enumerate(ps))


# What does not fit --------------------------------------------------------------------------------


def unchanged(path, ps, opt, message):
    """Loading raises, and neither parameters nor optimiser have changed."""
    before, known = bits(ps), pickle.dumps((ps, opt))
    with pytest.raises(ValueError, match=message) as error:
        load(path, ps, opt)
    assert str(path) in str(error.value)
    assert bits(ps) == before
    assert pickle.dumps((ps, opt)) == known


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ps: ps[:-1], "holds 6 parameters, but ps has 5"),
        (lambda ps: params(*ps, param(1.0)), "holds 6 parameters, but ps has 7"),
        (lambda ps: params(*ps[:2], param([0.5]), *ps[3:]), r"parameter 2 has shape \(\) .* \(1,\)"),
        (lambda ps: params(ps[0], param(np.ones(4)), *ps[2:]), "parameter 1 .*float32 .*float64"),
        (lambda ps: params(ps[4], *ps[1:4], ps[0], ps[5]), r"parameter 0 has shape \(2, 3\)"),
    ],
)
def test_parameters_that_do_not_fit_are_named(path, change, message):
    save(path, model(), ADAM())
    ps, opt = change(model()), ADAM()
    for p in ps:
        p[...] = 3
    step(ps, opt, 1)
    unchanged(path, ps, opt, message)


class Wide(Momentum):
    pass


@pytest.mark.parametrize(
    ("saved", "other", "message"),
    [
        (Momentum, ADAM, "opt was Momentum when saved, but is ADAM"),
        (Momentum, Wide, "opt was Momentum when saved, but is Wide"),
        (lambda: Optimiser(ADAM()), ADAM, "opt was Optimiser"),
        (
            lambda: Optimiser(ADAM()),
            lambda: Optimiser(ADAM(), Descent()),
            r"members was list of 1 .* is list of 2",
        ),
        (
            lambda: Optimiser(ADAM(), Descent()),
            lambda: Optimiser(ADAM(), Momentum()),
            r"opt.members\[1\] was Descent",
        ),
        (
            lambda: Optimiser(Optimiser(ADAM())),
            lambda: Optimiser(Optimiser(NADAM())),
            r"opt.members\[0\].members\[0\]",
        ),
        (
            lambda: Scheduler(Exp(1, 1), ADAM()),
            lambda: Scheduler(CosAnneal(0, 1, 2), ADAM()),
            "opt.schedule was Exp",
        ),
        (lambda: Scheduler(Exp(1, 1), ADAM()), lambda: Scheduler(Exp(1, 1), RMSProp()), "opt.opt was ADAM"),
        (shared, lambda: Optimiser(Momentum(), Optimiser(WeightDecay(), Momentum())), "also elsewhere"),
    ],
)
def test_an_optimiser_of_another_structure_is_refused_with_the_place(path, saved, other, message):
    ps, opt = model(), saved()
    step(ps, opt, 1)
    save(path, ps, opt)
    ps, opt = model(), other()
    step(ps, opt, 2)
    before = bits(ps), repr(opt)
    with pytest.raises(ValueError, match=message):
        load(path, ps, opt)
    assert (bits(ps), repr(opt)) == before


def test_an_optimiser_with_an_attribute_that_was_not_saved_is_refused(path):
    save(path, model(), Momentum())
    opt = Momentum()
    vars(opt)["extra_setting"] = 1
    unchanged(path, model(), opt, "it has nothing for opt.extra_setting")


def test_an_optimiser_cannot_be_loaded_where_none_was_saved(path):
    save(path, model())
    unchanged(path, model(), ADAM(), "holds no optimiser")


# Damage -------------------------------------------------------------------------------------------


def test_a_file_that_is_no_checkpoint_is_refused_by_name(path):
    ps = model()
    for contents in (b"", b"PK", b"hello" * 100, pickle.dumps({"a": 1}), b"\x93NUMPY\x01\x00"):
        path.write_bytes(contents)
        unchanged(path, ps, ADAM(), "is damaged or no checkpoint")
    np.savez(path, a=np.ones(3))
    unchanged(path, ps, ADAM(), "is no checkpoint: it holds no manifest")
    np.savez(path, manifest=np.ones(3), checksum=np.ones(3))
    unchanged(path, ps, ADAM(), "manifest cannot be read")
    with open(path, "wb") as file:
        np.savez(file, manifest=np.array([{}], dtype=object), checksum=np.ones(3))
    unchanged(path, ps, ADAM(), "is damaged or no checkpoint")


def rewritten(path, **changes):
    with np.load(path) as file:
        contents = {name: file[name] for name in file.files}
    with open(path, "wb") as file:
        np.savez(file, **(contents | changes))


def test_contents_that_are_not_those_written_are_found_out(path):
    ps = model()
    save(path, ps, Momentum())
    with np.load(path) as file:
        manifest = json.loads(file["manifest"].tobytes())
    for changes in (
        {"parameters/0": np.zeros((2, 3))},
        {"parameters/0": ps[0].value.view("i8")},
        {"added": np.zeros(1)},
        {"checksum": np.zeros(32, np.uint8)},
        {"manifest": np.frombuffer(json.dumps(manifest | {"parameters": 5}).encode(), np.uint8)},
    ):
        save(path, ps, Momentum())
        rewritten(path, **changes)
        unchanged(path, model(), Momentum(), "contents do not match its checksum")


def test_a_later_format_asks_for_an_upgrade(path, monkeypatch):
    monkeypatch.setattr(checkpoint, "VERSION", 2)
    save(path, model(), ADAM())
    monkeypatch.undo()
    unchanged(path, model(), ADAM(), "of format 2.*upgrade")


DAMAGE = st.one_of(
    st.tuples(
        st.just("flip"), st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=4)
    ),
    st.tuples(st.just("cut"), st.floats(0, 1)),
    st.tuples(st.just("fill"), st.tuples(st.floats(0, 1), st.integers(1, 600), st.sampled_from([0, 255]))),
    st.tuples(st.just("add"), st.binary(min_size=1, max_size=30)),
)


def damaged(contents, kind, how):
    contents = bytearray(contents)

    def at(place):
        return int(place * (len(contents) - 1))

    if kind == "flip":
        for place, mask in how:
            contents[at(place)] ^= mask
    elif kind == "cut":
        del contents[at(how) :]
    elif kind == "fill":
        place, length, byte = at(how[0]), how[1], how[2]
        contents[place : place + length] = bytes([byte]) * len(contents[place : place + length])
    else:
        contents += how
    return bytes(contents)


def example_run():
    ps, opt = params(param(np.arange(6.0).reshape(2, 3)), param(0.5)), Optimiser(ADAM(), ExpDecay())
    update(opt, ps, {p: np.ones(p.shape) for p in ps})
    return ps, opt


@given(DAMAGE)
@settings(tmp_files, max_examples=250)
def test_a_damaged_file_is_refused_or_harmless(tmp_path, damage):
    ps, opt = example_run()
    path = tmp_path / "run.npz"
    save(path, ps, opt, epoch=3)
    path.write_bytes(damaged(path.read_bytes(), *damage))
    expected = bits(ps)
    for p in ps:
        p[...] = 9
    nines = bits(ps)
    try:
        extra = load(path, ps, opt)
    except ValueError as error:
        extra, message = None, str(error)
    if extra is None:
        assert str(path) in message
        assert bits(ps) == nines
    else:
        assert extra == {"epoch": 3}
        assert bits(ps) == expected


def test_a_missing_file_is_the_usual_error(path):
    with pytest.raises(FileNotFoundError):
        load(path, model())
    with pytest.raises(IsADirectoryError):
        load(path.parent, model())


# Writing ------------------------------------------------------------------------------------------


def test_the_path_is_taken_as_it_is(tmp_path):
    for name in ("model", "model.npz", "å ß.ckpt", "x" * 255):
        save(str(tmp_path / name), model(), n=name)
        assert load(os.fsencode(tmp_path / name), model())["n"] == name
    assert len(os.listdir(tmp_path)) == 4
    with pytest.raises(TypeError):
        save(3, model())


def test_a_relative_path_is_beside_the_program(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("model.npz", model())
    assert os.listdir(tmp_path) == ["model.npz"]


def test_a_new_file_has_the_permissions_of_any_new_file(path):
    before = os.umask(0o027)
    try:
        save(path, model())
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "model", tmp_path / "link"
    link.symlink_to(target)
    for n in range(2):  # first it points to nothing yet
        save(link, model(), n=n)
        assert link.is_symlink()
        assert load(target, model()) == {"n": n}
    assert os.listdir(tmp_path / "there") == ["model"]
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(OSError, match="not a regular file"):
        save(loop, model())
    assert loop.is_symlink()


def test_a_place_where_no_file_can_be_is_refused(tmp_path):
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").write_text("text")
    os.mkfifo(tmp_path / "pipe")
    for name, error in [
        ("directory", IsADirectoryError),
        ("missing/model", FileNotFoundError),
        ("file/model", FileNotFoundError),
        ("pipe", FileExistsError),
    ]:
        with pytest.raises(error, match="cannot save") as caught:
            save(tmp_path / name, model())
        assert caught.value.filename == str(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["directory", "file", "pipe"]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


class FullDisk:
    """A file on a disk with room for so many bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        if self.file.tell() + memoryview(data).nbytes > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)


def failing(monkeypatch, where, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(*where, fail)


@pytest.fixture
def old(path):
    """A checkpoint that is there already."""
    save(path, model(), n="old")
    yield path
    assert load(path, model()) == {"n": "old"}
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("part", [0, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_full_disk_leaves_the_old_file_alone(old, monkeypatch, part):
    plain_open = builtins.open
    save(old, model(), ADAM(), n="new")
    room = int(part * old.stat().st_size)
    save(old, model(), n="old")
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", lambda *args: FullDisk(plain_open(*args), room))
        with pytest.raises(OSError, match=r"cannot save.*No space left") as caught:
            save(old, model(), ADAM(), n="new")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(old)


@pytest.mark.parametrize(
    ("where", "error", "expected"),
    [
        ((os, "fsync"), OSError(errno.EIO, "Input/output error"), OSError),
        ((os, "replace"), PermissionError(errno.EACCES, "Permission denied"), PermissionError),
        ((builtins, "open"), PermissionError(errno.EACCES, "Permission denied"), PermissionError),
        ((builtins, "open"), OSError(errno.EROFS, "Read-only file system"), OSError),
        ((np.lib.format, "write_array"), KeyboardInterrupt(), KeyboardInterrupt),
        ((np.lib.format, "write_array"), MemoryError(), MemoryError),
    ],
)
def test_whatever_fails_leaves_the_old_file_alone(old, monkeypatch, where, error, expected):
    with monkeypatch.context() as patch:
        failing(patch, where, error)
        with pytest.raises(expected) as caught:
            save(old, model(), n="new")
    if isinstance(error, OSError):
        assert error.strerror in str(caught.value)
        assert caught.value.filename == str(old)


def test_a_limit_on_the_size_of_files_leaves_the_old_file_alone(old):
    program = f"""
import resource, signal, numpy as np
from minidiff import param
from minidiff.checkpoint import save
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    save({str(old)!r}, [param(np.ones(100_000))])
except OSError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "cannot save (File too large)" in done.stdout
    assert done.stderr == ""


def test_the_file_is_on_the_disk_before_it_has_its_name_and_the_name_after(path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        plain = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, plain=plain: (calls.append(name), plain(*a))[1])
    save(path, model())
    assert calls == ["fsync", "replace", "fsync"]


def test_equal_runs_write_equal_contents(tmp_path):
    for name in "ab":
        save(tmp_path / name, *example_run(), x=1)
    with zipfile.ZipFile(tmp_path / "a") as a, zipfile.ZipFile(tmp_path / "b") as b:
        assert {n: a.read(n) for n in a.namelist()} == {n: b.read(n) for n in b.namelist()}


# Runs that are killed -----------------------------------------------------------------------------


def run(path, until=None, seed=0):
    """Train on shuffled data with a schedule, saving after every third step, from `path` if it is there.

    Dies at step `until`. Gives the parameters and the losses since the last checkpoint.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(20, 3))
    y = x @ [1.0, -2.0, 0.5]
    W, b = param(np.zeros(3)), param(0.0)
    ps = params(W, b)
    opt = Optimiser(ClipNorm(1.0), Scheduler(CosAnneal(0.01, 0.3, 5), ADAM()), ExpDecay(1.0, 0.5, 7))
    loader = DataLoader((x, y), batchsize=6, shuffle=True, rng=seed)
    done = {"epoch": 0, "steps": 0}
    if path.exists():
        extra = load(path, ps, opt)
        loader.state, done = extra["loader"], extra["done"]

    def after_each_step():
        done["steps"] += 1
        if done["steps"] % 3 == 0:
            save(path, ps, opt, loader=loader.state, done=done)
        if done["steps"] == until:
            raise InterruptedError

    while done["epoch"] < 5:
        train(lambda x, y: mse(x @ W + b, y), ps, loader, opt, cb=after_each_step)
        done["epoch"] += 1
    return bits(ps), done


@pytest.mark.parametrize("deaths", [(1,), (2, 9, 17), (3, 4, 5, 6), (4, 8, 12, 19), (19,)])
def test_a_run_that_dies_and_resumes_is_the_run_that_never_died(tmp_path, deaths):
    for until in deaths:
        with pytest.raises(InterruptedError):
            run(tmp_path / "run", until)
    assert run(tmp_path / "run") == run(tmp_path / "other")


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import numpy as np
from minidiff import param, params
from minidiff.checkpoint import load, save
from minidiff.optimise import Momentum, update

path, rng = Path(sys.argv[1]), random.Random(int(sys.argv[3]))
STEPS = 160

def start():
    ps, opt = params(*[param(np.zeros(1000)) for _ in range(12)]), Momentum(0.1)
    return ps, opt, (load(path, ps, opt)["step"] if path.exists() else 0)

def go():
    ps, opt, step = start()
    while step < STEPS:
        update(opt, ps, {p: np.full(1000, np.sin(step)) for p in ps})
        step += 1
        save(path, ps, opt, step=step)

kills, progress, patience = 0, 0, 0.02
while progress < STEPS:
    child = os.fork()
    if child == 0:
        go()
        os._exit(0)
    time.sleep(rng.uniform(0, patience))
    os.kill(child, signal.SIGKILL)
    kills += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    ps, opt, step = start()  # whatever is there can be read, whole
    assert step >= progress, (step, progress)
    patience *= 0.7 if step > progress + 5 else 1.3  # a busy machine needs longer
    progress = step
    expected, velocity = 0.0, 0.0
    for t in range(step):
        velocity = 0.9 * velocity - 0.1 * np.sin(t)
        expected = expected + velocity
    for p in ps:
        assert np.all(p == ps[0][0]), "a mixture of two checkpoints"
    assert np.allclose(ps[0], expected, rtol=1e-12)
print(float(ps[0][0]).hex(), kills)
"""


def test_a_process_that_is_killed_many_times_arrives_where_one_that_is_not_does(path):
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, str(path), os.getcwd(), "1"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    value, kills = done.stdout.split()
    W, opt = param(np.zeros(1)), Momentum(0.1)
    for step in range(160):
        update(opt, W, np.full(1, np.sin(step)))
    assert value == float(W[0]).hex()
    assert int(kills) > 10


# A file of the first version ------------------------------------------------------------------------


def first_run():
    """Return all that `golden/checkpoint_0_1.npz` holds, which minidiff 0.1 saved with this very function."""
    rng = np.random.default_rng(5)
    ps = params(
        param(np.arange(6.0).reshape(2, 3)),
        param(np.ones(2), np.float32),
        param(0.5),
        param(np.array([1 + 2j])),
    )
    rules = (ADAM, NADAM, OADAM, RADAM, AdaBelief, ADADelta, ADAGrad, AdaMax, AMSGrad, Momentum, Nesterov)
    opt = Optimiser(
        ClipNorm(1.0),
        Optimiser(ClipValue(0.4), WeightDecay(0.1), ADAMW(0.1, (0.8, 0.9), 0.1)),
        Scheduler(Exp(0.5, 0.8), RMSProp(0.1)),
        *(rule() for rule in rules),
        InvDecay(0.1),
        Descent(1e6),
        ExpDecay(0.9, 0.5, 2, 0.1),
    )
    loader = DataLoader(np.arange(10), batchsize=3, shuffle=True, rng=1)
    for t, _ in zip(range(3), loader, strict=False):
        update(opt, ps, {p: np.full(p.shape, 1.0 + t) for p in ps})
    extra = {
        "epoch": 2,
        "losses": np.arange(3.0),
        "rng": rng,
        "loader": loader.state,
        "best": ("W", [0.25, None]),
    }
    return ps, opt, extra


def test_a_file_of_the_first_version_is_loaded():
    ps, opt, extra = first_run()
    others, other = params(*[param(np.zeros_like(p.value)) for p in ps]), copy.deepcopy(opt)
    other.reset()
    other[-1].decay_step = 7
    loaded = load(Path(__file__).parent / "golden" / "checkpoint_0_1.npz", others, other)
    assert same(loaded, extra)
    assert [opt[-1].eta, other[-1].eta, other[-1].decay_step] == [0.45, 0.45, 2]
    for seed in range(4):
        for p, q in zip(ps, others, strict=True):
            np.testing.assert_allclose(q.value, p.value, rtol=1e-6)
        step(ps, opt, seed)
        step(others, other, seed)


# Copies ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("name", ["ADAM", "decayed", "shared", "custom", "kept in a dict"])
def test_copies_of_model_and_optimiser_stay_tied(duplicate, name):
    ps, opt = model(), OPTIMISERS[name]()
    for seed in range(3):
        step(ps, opt, seed)
    copied, other = duplicate((ps, opt))
    for seed in range(3, 6):
        step(ps, opt, seed)
        step(copied, other, seed)
    assert bits(copied) == bits(ps)


class Kept(Rule):
    keeps = ("m",)

    @staticmethod
    def formula(x, Δ, m):
        return Δ, m + Δ


def test_a_rule_that_keeps_something_else_is_not_loaded_into(tmp_path, monkeypatch):
    W, path = param(np.ones(2)), tmp_path / "model.npz"
    θ, opt = params(W), Kept()
    update(opt, W, np.ones(2))
    save(path, θ, opt)
    other = Kept()
    monkeypatch.setattr(Kept, "keeps", ("v",))
    W[...] = 5
    with pytest.raises(ValueError, match=r"keeps \['m'\]"):
        load(path, θ, other)
    assert len(other.state) == 0
    assert np.all(W == 5)


def test_nothing_is_loaded_into_a_parameter_under_differentiation(tmp_path):
    W, b, path = param(np.ones(2)), param(2.0), tmp_path / "model.npz"
    save(path, params(b, W))
    b[...] = 3
    with pytest.raises(TypeError, match="load"):
        gradient(lambda: load(path, params(b, W)) or np.sum(W), params(W))
    assert b == 3


def test_the_path_comes_first(tmp_path):
    θ = params(param(1.0))
    for call in (lambda: save(θ, tmp_path / "x.npz"), lambda: load(θ, tmp_path / "x.npz")):
        with pytest.raises(TypeError, match="path comes first"):
            call()


class Holding(AbstractOptimiser):
    """Holds what it works with in containers of every kind, and modules."""

    xp = None

    def __init__(self):
        self.xp, self.pair, self.latest = np, (Momentum(0.1), [0, (0.0, "none")]), None
        self.named = {"fast": ADAM(0.1), 3: {"slow": (RMSProp(0.01), 0.5)}}
        self.made = {}

    def apply(self, x, Δ):
        count, latest = self.pair[1]
        self.pair[1][:] = count + 1, (float(self.xp.sum(Δ)), "seen")
        self.made["last"] = self.pair[1][1]
        self.latest = [Δ.copy(), {"is": latest}]
        rule, weight = self.named[3]["slow"]
        step = self.pair[0].apply(x, Δ) + self.named["fast"].apply(x, Δ) + weight * rule.apply(x, Δ)
        return step * count


def test_an_optimiser_that_holds_tuples_dicts_and_modules_comes_back_whole(path):
    ps, opt = params(param(np.ones(3)), param(2.0)), Holding()
    for seed in range(3):
        step(ps, opt, seed)
    opt.pair[0].eta, opt.named[3]["slow"][0].rho = 0.3, 0.75
    save(path, ps, opt)
    others, other = params(param(np.zeros(3)), param(0.0)), Holding()
    # Containers must have the keys that were saved.
    other.made, other.latest = {"last": None}, [None, {"is": None}]
    first, parts = other.pair[0], other.named[3]["slow"]
    load(path, others, other)
    assert same(other.pair[1], opt.pair[1])
    assert same(other.made, opt.made)
    assert same(other.latest, opt.latest)
    assert other.xp is np
    assert other.pair[0] is first
    assert other.named[3]["slow"][0] is parts[0]
    assert (first.eta, parts[0].rho) == (0.3, 0.75)
    for seed in range(4):
        step(ps, opt, seed)
        step(others, other, seed)
    assert bits(others) == bits(ps)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda opt: setattr(opt, "pair", (Momentum(), [0, None], 1)), r"opt\.pair"),
        (lambda opt: setattr(opt, "pair", [Momentum(), [0, None]]), r"opt\.pair"),
        (lambda opt: setattr(opt, "pair", (ADAM(), [0, None])), r"opt\.pair\[0\]"),
        (lambda opt: opt.named.pop("fast"), r"opt\.named"),
        (lambda opt: opt.named.update(more=ADAM()), r"opt\.named"),
        (lambda opt: opt.named.update(quick=opt.named.pop("fast")), r"opt\.named"),
        (lambda opt: opt.named.update(fast=Momentum()), r"opt\.named\['fast'\]"),
        (lambda opt: opt.named[3].update(slow=(RMSProp(),)), r"opt\.named\[3\]\['slow'\]"),
        (lambda opt: setattr(opt, "xp", ADAM), r"opt\.xp"),
    ],
)
def test_containers_of_an_optimiser_that_do_not_fit_are_told_where(path, change, message):
    ps, opt = params(param(np.ones(3))), Holding()
    save(path, ps, opt)
    change(opt)
    ps[0].value[...] = 5.0
    with pytest.raises(ValueError, match=message):
        load(path, ps, opt)
    assert ps[0].value.tolist() == [5.0] * 3


@pytest.mark.parametrize("readonly", [0, 1])
def test_a_read_only_parameter_keeps_all_others_from_being_loaded(path, readonly):
    save(path, [param([1.0]), param([2.0])], ADAM(0.5))
    ps, opt = [param([3.0]), param([4.0])], ADAM(0.25)
    ps[readonly].value.flags.writeable = False
    with pytest.raises(ValueError, match=f"parameter {readonly} is a read-only array"):
        load(path, ps, opt)
    assert [p.value.tolist() for p in ps] == [[3.0], [4.0]]
    assert opt.eta == 0.25


@pytest.mark.parametrize("version", ["1", 1.5, None, [1]])
def test_a_version_that_is_no_whole_number_is_of_no_checkpoint(path, version, monkeypatch):
    monkeypatch.setattr(checkpoint, "VERSION", version)
    save(path, model())
    monkeypatch.undo()
    unchanged(path, model(), None, "no checkpoint")


def nested(levels, innermost=0):
    for _ in range(levels):
        innermost = [innermost]
    return innermost


def test_containers_go_a_hundred_deep_and_any_number_beside_each_other(path):
    beside = [nested(3) for _ in range(150)]
    save(path, [], deep=[beside, nested(99)], beside=beside)
    assert load(path, []) == {"deep": [beside, nested(99)], "beside": beside}
    for too_deep in (nested(101), [beside, nested(100)]):
        with pytest.raises(ValueError, match="nested too deeply"):
            save(path, [], deep=too_deep)
    assert load(path, [])["beside"] == beside


@pytest.mark.parametrize(
    "live", [None, np.random.Generator(np.random.MT19937(1)), np.random.Generator(np.random.PCG64(1))]
)
def test_a_generator_comes_back_where_another_or_none_stands(path, live):
    ps, opt = params(param(np.ones(3))), Custom()
    step(ps, opt, 1)
    save(path, ps, opt)
    expected = opt.rng.normal(size=4)
    other = Custom()
    other.rng = live
    load(path, ps, other)
    assert (other.rng is live) == (live is not None and type(live.bit_generator) is np.random.PCG64)
    np.testing.assert_array_equal(other.rng.normal(size=4), expected)
