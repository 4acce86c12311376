"""IdDict: a dictionary by identity, whose entries live as long as their keys."""

import copy
import gc
import pickle
import sys
import weakref
from collections.abc import MutableMapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidiff import IdDict, compiled, param, params
from minidiff.optimise import Momentum, reset, update

KEYS = [np.zeros(2), np.zeros(2), param(0.0), param(0.0), param([0.0]), [0], [0], "s", 10**30, None]
calls = st.tuples(
    st.sampled_from(["set", "delete", "pop", "setdefault", "get", "in", "update", "clear"]),
    st.integers(0, len(KEYS) - 1),
    st.integers(),
)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.lists(calls, max_size=30))
def test_it_is_the_dict_of_ids(sequence):
    ours, model = IdDict(), {}
    for call, i, value in sequence:
        key = KEYS[i]
        if call == "set":
            ours[key] = model[i] = value
        elif call == "delete":
            if i in model:
                del ours[key], model[i]
            else:
                with pytest.raises(KeyError):
                    del ours[key]
        elif call == "pop":
            assert ours.pop(key, None) == model.pop(i, None)
        elif call == "setdefault":
            assert ours.setdefault(key, value) == model.setdefault(i, value)
        elif call == "get":
            assert ours.get(key) == model.get(i)
            if i not in model:
                with pytest.raises(KeyError):
                    ours[key]
        elif call == "in":
            assert (key in ours) == (i in model)
        elif call == "update":
            ours.update(IdDict([(key, value)]))
            model.update({i: value})
        elif value % 5 == 0:
            ours.clear()
            model.clear()
        assert len(ours) == len(model)
        assert [(id(k), v) for k, v in ours.items()] == [(id(KEYS[k]), v) for k, v in model.items()]


def test_an_entry_goes_with_its_key_and_frees_its_value():
    class Value:
        alive = 0

        def __init__(self):
            Value.alive += 1

        def __del__(self):
            Value.alive -= 1

    state = IdDict()
    for _ in range(1000):  # ids are given out again: none may find the entry of a key before it
        p = param(0.0)
        assert p not in state
        state[p] = Value()
    gc.collect()
    assert (len(state), list(map(id, state)), Value.alive) == (1, [id(p)], 1)
    del p
    gc.collect()
    assert (len(state), Value.alive) == (0, 0)


def test_a_key_that_has_no_weak_reference_is_held():
    state = IdDict()
    state[[1, 2]] = "held"
    gc.collect()
    assert list(state.items()) == [([1, 2], "held")]


def test_keys_may_die_while_it_is_read_and_with_it():
    keys = [param(float(i)) for i in range(5)]
    state = IdDict((p, i) for i, p in enumerate(keys))
    seen = []
    for p in state:
        seen.append(float(p))
        keys.clear()
    assert seen[0] == 0
    del p
    gc.collect()
    assert len(state) == 0
    p = param(0.0)
    state[p] = 1
    del state
    del p  # with nothing left to forget
    gc.collect()


def test_it_is_a_mutable_mapping_that_compares_by_identity():
    p = param(0.0)
    state, other = IdDict({p: 1}), IdDict({p: 1})
    assert isinstance(state, MutableMapping)
    assert state == state
    assert state != other
    with pytest.raises(TypeError):
        hash(state)
    with pytest.raises(KeyError) as caught:
        state[param(1.0)]
    assert "param(1.)" in str(caught.value)
    assert repr(state) == "IdDict([(param(0.), 1)])"
    assert IdDict(other)[p] == 1


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"]
)
def test_a_clone_together_with_its_keys_keeps_the_tie(clone):
    p, q = param([1.0]), param([1.0])
    state = IdDict([(p, {"velocity": np.ones(1)}), (q, [2])])
    (new_p, new_q), new = clone(([p, q], state))
    assert [new_p in new, new_q in new, p in new, len(new)] == [True, True, False, 2]
    new[new_p]["velocity"] += 1
    assert state[p]["velocity"] == 1
    new, (new_p, new_q) = clone((state, [p, q]))
    assert new[new_q] == [2]
    nested = IdDict([(p, IdDict([(p, 1)]))])
    new_p, new = clone((p, nested))
    assert new[new_p][new_p] == 1


def test_a_shallow_copy_has_the_same_keys_and_values_and_its_own_entries():
    p = param([1.0])
    state = IdDict([(p, [2])])
    new = copy.copy(state)
    assert new[p] is state[p]
    del new[p]
    assert p in state


def test_a_clone_alone_holds_nothing_as_nothing_else_holds_its_keys():
    p = param([1.0])
    new = copy.deepcopy(IdDict([(p, 1)]))
    gc.collect()
    assert len(new) == 0


def test_no_python_code_runs_as_a_key_is_freed():
    # An interrupt that is raised in such code is printed and lost.
    state, calls = IdDict(), []
    keys = [param(0.0) for _ in range(3)]
    for key in keys:
        state[key] = IdDict([(key, 1)])
    del key
    sys.setprofile(lambda frame, event, _: calls.append(frame.f_code.co_name) if event == "call" else None)
    try:
        keys.clear()
    finally:
        sys.setprofile(None)
    assert (len(state), calls) == (0, [])


def test_a_dictionary_that_goes_with_its_keys_goes_in_silence():
    # The values of one entry may hold the key of another, which is then freed amid the dictionary's own end.
    p, q = param(0.0), param(1.0)
    state = IdDict()
    state[p], state[q] = [q], [p]
    alive = weakref.ref(p)
    del p, q
    assert len(state) == 2
    del state
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"]
)
def test_a_copy_that_has_lost_its_state_says_so_once_where_it_is_used(clone):
    W = param([1.0, -2.0])
    opt = Momentum(0.1)
    update(opt, W, np.ones(2))
    alone = clone(clone(opt))
    with pytest.warns(UserWarning, match="all its 1 entries are lost.*deepcopy"):
        update(alone, W, np.ones(2))
    update(alone, W, np.ones(2))
    together, V = clone((opt, W))
    update(together, V, np.ones(2))
    update(together, W, np.ones(2))  # another parameter, new to it
    update(clone(Momentum(0.1)), W, np.ones(2))
    update(copy.copy(opt), W, np.ones(2))
    with pytest.warns(UserWarning, match="are lost"), pytest.raises(KeyError):
        clone(opt).state[W]
    emptied = clone(opt)
    reset(emptied)
    update(emptied, W, np.ones(2))


@pytest.mark.parametrize("how", ["one", "several", "compiled"])
def test_where_warnings_are_errors_no_step_is_taken_without_the_state_that_a_copy_has_lost(how):
    W = param([1.0, -2.0])
    θ, opt = params(W), Momentum(0.1)
    update(opt, W, np.ones(2))
    alone, before = copy.deepcopy(opt), W.value.tolist()
    step = {
        "one": lambda: update(alone, W, np.ones(2)),
        "several": lambda: update(alone, θ, {W: np.ones(2)}),
        "compiled": compiled(lambda: np.sum(W), θ, alone),
    }[how]
    for _ in range(2):
        with pytest.raises(UserWarning, match="are lost"):
            step()
        assert W.value.tolist() == before
    reset(alone)
    step()
    assert W.value.tolist() != before
