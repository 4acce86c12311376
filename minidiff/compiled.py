"""A loss and its gradient, or a whole training step, recorded once and run as straight lines of NumPy."""

from __future__ import annotations

import inspect
import keyword
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from minidiff.checks import add_note, described, instance, is_ndarray, owners_of, warn
from minidiff.gradient import WithGradient, _check_loss, _pull, _record, _variable, withgradient
from minidiff.grads import Grads
from minidiff.interrupts import failures, trying, whole
from minidiff.optimise.base import AbstractOptimiser
from minidiff.optimise.together import Steps, Together
from minidiff.optimise.update import update
from minidiff.params import Param, Params
from minidiff.program.alike import alike, doubt
from minidiff.program.bindings import Bindings
from minidiff.program.copies import with_stand_ins
from minidiff.program.lines import ChangedError, Lines, free_name
from minidiff.program.listing import FillsError, Listing, RefusedError, StandIn, WritesError, example
from minidiff.program.reach import Names, Reach, Seen
from minidiff.program.signature import contents, equal, key_of, objects_in, outlined, parts_of, stood
from minidiff.tracing import is_tracing, map_container, standing_for_leaves, watching

__all__ = ["Compiled", "compiled"]

# One loss gets at most KEPT programs. A warning comes with the recording of number MANY.
KEPT, MANY = 64, 16
# Several recordings that take more seconds than this are worth a warning.
LONG = 10.0
# To compare more things than this takes longer than most losses.
HELD = 100_000
# A program that has run this often was worth its recording, even if data have changed since.
WORTH = 100
# Advice for a loss that asks a value for its type: the type of a stand-in is another.
_TYPES = "ask isinstance(x, float), as type(x) is another when it is recorded"


def compiled(
    loss: Callable[..., Any], ps: Params | None = None, opt: AbstractOptimiser | None = None
) -> Compiled:
    """Make a program of a loss and its gradient, or of a whole training step.

    Three forms::

        f = compiled(loss, θ)          # f(x, y) is withgradient(lambda: loss(x, y), θ)
        f = compiled(loss)             # f(x, y) is withgradient(loss, x, y)
        step = compiled(loss, θ, opt)  # step(x, y) updates θ and returns the loss

    At its first call the function runs with stand-ins for its arguments and the parameters. What it does with
    them becomes a function of plain NumPy, forward and backward, that runs in place of it from then on: the
    same calls, so the results have the same bits, without what Python and the recording of a gradient cost.

    Parameters
    ----------
    loss : callable
        Returns one real number.
    ps : Params, optional
        The parameters to differentiate by: those that are in it now.
    opt : AbstractOptimiser, optional
        The optimiser that takes the step.

    Returns
    -------
    Compiled
        The function. Its arguments are arrays, numbers, parameters, or lists, tuples and dicts of these. It
        is recorded anew when their structure is another, or a shape, dtype or memory layout, or what is
        neither an array nor a float: an integer, a string, an object or anything that this or its class
        holds, a function or its defaults and outer variables. For more than 64 such signatures the loss runs
        as it is. An argument beside parameters that the loss calls ``_`` is None to it.

    Raises
    ------
    TypeError
        When the function is called with arguments of a new signature, if what the loss does would not be the
        same for other values: it branches on one, makes a Python number or a text of one, changes an array in
        place that is not under differentiation, changes a list or a dict that it gets, draws random numbers,
        goes by how often it was called, goes on after an error that it catches, has `np.errstate` or
        `warnings` raise errors, calls `implicit_root` or `fixed_point`, which look at values, or keeps what
        it computes in an attribute of an object or a class, a list, a dict, a variable or an array that it
        finds. The message names the line, or the place.

    Notes
    -----
    Arrays that the loss reaches otherwise than by its arguments are kept by reference: what changes in them
    counts, but not another shape. What it makes of them (``X - X.mean(axis=0)``) is made at every call. Where
    it looks at them (a branch, a Python number, how many elements a mask picks), the program looks again at
    every call, and is recorded anew when it sees something else. Arrays of objects, those of pandas and in
    what cannot be copied (an object with a ``__deepcopy__`` of its own, a weak reference), are compared with
    what they were, up to 1 MiB in all; a loss that makes arrays of larger ones is refused, and branches on
    them are those of the recording.

    It is recorded anew, too, when a variable, an attribute or an item of a list, a deque, a set or a dict
    that the loss finds is bound to something else: another number, text, function or array. What changes at
    every call had better be an argument. Of such names 1000 are compared; for more, and for what Python keeps
    out of sight (a generator, a cache, `os.environ`), the recording holds.

    The loss itself runs only at a first call: once as it is, for the result, and twice, or four times, to be
    recorded. What it prints or counts it prints or counts then.

    Threads may call one program at once. Steps have the bits of `update`, whose state they share. Small
    parameters make one vector, on which the optimiser's formulas run as straight lines, too; of a large
    one, or with an optimiser that is no formula, `update` itself takes the step: printing the function
    says so.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff import compiled, param, params
    >>> W, b = param([[1.0, 2.0], [3.0, 4.0]]), param([3.0, 4.0])
    >>> def loss(x, y):
    ...     return np.sum((W @ x + b - y) ** 2)
    >>> f = compiled(loss, params(W, b))
    >>> val, grads = f(np.array([1.0, 0.0]), np.array([3.0, 5.0]))
    >>> val, grads[b]
    (np.float64(5.0), array([2., 4.]))
    >>> print(f.source)
    def loss_and_gradient(W, b, x, y):
        # --- forward ---
        # return np.sum((W @ x + b - y) ** 2)
        v1 = W @ x
        v1 += b
        v1 -= y
        v2 = v1 ** 2
        value = np.add.reduce(v2, axis=None)
        # --- backward ---
        # return np.sum((W @ x + b - y) ** 2)
        db = v1 + v1
        dW = db[..., None] * x
        return value, dW, db
    """
    if not callable(loss) or isinstance(loss, (Param, Params)):
        raise TypeError(
            f"compiled(loss, …): loss must be a function, got {described(loss)}. "
            "Write compiled(lambda x, y: loss(x, y), θ)."
        )
    if isinstance(ps, AbstractOptimiser):
        raise TypeError("the order is compiled(loss, ps, opt): the loss, its parameters, the optimiser.")
    if ps is not None:
        instance("compiled(loss, ps): ps", ps, Params, "Params", ": wrap it in params(...)")
    if opt is not None:
        instance("compiled(loss, ps, opt): opt", opt, AbstractOptimiser, "an optimiser")
    if opt is not None and ps is None:
        raise TypeError("compiled(loss, ps, opt): opt takes steps of the parameters ps, which are lacking.")
    return Compiled(loss, ps, opt)


class KeepsError(RefusedError):
    """The loss keeps what it computes."""


class Compiled:
    """What `compiled` gives: a function that is recorded when it is first called.

    Attributes
    ----------
    source : str
        The programs made so far, as NumPy code.
    """

    def __init__(self, loss: Callable[..., Any], ps: Params | None, opt: AbstractOptimiser | None) -> None:
        self._loss, self._opt = loss, opt
        self._params = None if ps is None else Params(ps)
        self._ps = [] if ps is None else list(ps)
        self._values = [p.value for p in self._ps]
        self._programs: dict[Any, _Made] = {}
        self._latest: tuple[Any, _Made | None] = None, None
        self._steps: Steps | None = None
        self._lock = threading.RLock()
        self._recorded, self._spent = 0, 0.0
        self._warned: set[str] = set()  # what it has warned of
        name = getattr(loss, "__name__", type(loss).__name__)
        self._name = name if name.isidentifier() else "loss"
        self._unused = [i for i, name in enumerate(_parameters(loss)) if name == "_" and ps is not None]

    def __call__(self, *args: Any, **by_name: Any) -> Any:
        """Give the loss and its gradient, or take a step and give the loss."""
        if by_name:
            raise TypeError(f"compiled: arguments go by position, got {', '.join(by_name)} by name")
        if is_tracing() or watching.get():  # both have to see what the loss does
            return self._eagerly(args)
        if self._unused:
            args = tuple([None if i in self._unused else x for i, x in enumerate(args)])
        leaves: Any = args
        key: list[Any] = []
        for x in args:
            if type(x) is not np.ndarray:
                leaves = []
                key = [key_of(arg, leaves) for arg in args]
                break
            key += x.shape, x.strides, x.dtype
        latest, made = self._latest
        if made is None or key != latest:
            made = self._programs.get(tuple(key))
            if made is None:  # a program for each of very many signatures would not pay
                return self._first(tuple(key), args) if len(self._programs) < KEPT else self._eagerly(args)
            self._latest = key, made
        try:
            if made.has_changed():
                raise ChangedError
            made.ran += 1
            every = made.run(*self._values, *leaves)
        except ChangedError:
            if self._recorded >= KEPT:  # where data change at each call, programs do not pay
                return self._eagerly(args)
            self._latest = None, None
            return self._first(tuple(key), args, made)
        except failures():  # the loss may catch it; if not, the traceback shows the user's lines
            return self._eagerly(args)
        return made.result(every) if self._opt is None else self._step(made, every)

    def _eagerly(self, args: tuple[Any, ...]) -> Any:
        if self._opt is not None and is_tracing():
            raise TypeError(
                f"a compiled step of {self._name} is no loss: it changes what is under differentiation. Call "
                "it by itself, or train(loss, θ, data, opt, compiled=True)."
            )
        result = self._gradient(args)
        if self._opt is None:
            return result
        with self._lock:
            whole(update, self._opt, self._params, result.grad)
        return result.val

    def _gradient(self, args: tuple[Any, ...]) -> WithGradient:
        loss, ps = self._loss, self._params
        if ps is not None:
            return withgradient(lambda: loss(*args), ps)  # type: ignore[no-any-return]
        try:
            return withgradient(loss, *args)  # type: ignore[no-any-return]
        except (IndexError, TypeError, ValueError) as error:
            if any(is_ndarray(x) and x.dtype.kind in "iu" for x in args):
                name = self._name
                add_note(error, f"compiled({name}) is by its arguments, compiled({name}, θ) by parameters.")
            raise

    def _on_copies(self, args: tuple[Any, ...]) -> WithGradient:
        """Give the gradient of the loss, called with copies of lists and dicts, which it is not to change."""
        copies = tuple([stood(arg, "", lambda x, _: x, lambda x: x) for arg in args])
        before = [*contents(copies)]
        result = self._gradient(copies)
        if [*map(id, contents(copies))] != [*map(id, before)]:
            raise KeepsError(
                f"compiled: {self._name} changes a list or a dict that it gets as an argument, which its "
                "program would not. Let it work on a copy: batch = dict(batch), or copy.copy(batch)."
            )
        return result

    def _step(self, made: _Made, every: Any) -> Any:
        """Take a step with what a program gave, and give the loss."""
        steps: Any = self._steps
        grads = made.gradients_of(every)
        with self._lock:  # one at a time, and none while another thread records and compares
            if made.step is None:
                made.step = steps.of(grads)
            made.step.take(grads)
        return every[0]

    @property
    def source(self) -> str:
        """The programs made so far, as NumPy code."""
        lines = [made.lines for made in list(self._programs.values())]
        lines += [step.lines for step in self._together() if step.lines is not None]
        return "\n\n".join(some.source.rstrip() for some in lines) or "# not recorded yet: call it"

    def _together(self) -> list[Together]:
        return [] if self._steps is None else list(self._steps.known.values())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the programs made so far as a module that needs NumPy alone.

        The module has a function ``loss_and_gradient`` of the parameters and the arguments; if there are
        programs of several signatures, then ``loss_and_gradient_2`` and so on; and, of a training step, a
        function ``step`` of the parameters, their gradients, what the optimiser keeps, and its numbers. Each
        says what goes in and comes out, and refuses what it was not made for. They give the same bits; an
        array that lies in memory in another order than at the recording is copied to that.

        Parameters
        ----------
        path : path-like
            The file, such as ``"step.py"``. One that `save` has written is replaced, no other is. Constants
            of more than 16 numbers are in a file beside it, ``step-….npz``, which the module reads.

        Raises
        ------
        ValueError
            If there is no program yet, if data have changed of which one depends, or the file's name is none
            for a module.
        FileExistsError
            If there is another file.
        TypeError
            If a program cannot do with NumPy alone: it needs the derivative of eigenvalues or singular values
            (`np.linalg.eig`, ``eigh``, ``svd``, and what is made of them: ``eigvals``, ``eigvalsh``,
            ``svdvals``, ``cond``, ``norm`` with ``ord`` 2, -2 or "nuc") or of `np.i0`; it calls a function of
            SciPy's or with a `derivative` of its own, has a constant that is a sparse matrix or of
            ``longdouble``, or assigns into a view that is laid out otherwise; an optimiser is no formula; or
            an array is named as a function of the module.
        OSError
            If the files cannot be written. What was there before is unchanged.

        Examples
        --------
        >>> import os, tempfile
        >>> import numpy as np
        >>> from minidiff import compiled, param, params
        >>> W = param([1.0, 2.0])
        >>> f = compiled(lambda x: np.sum((W - x) ** 2), params(W))
        >>> val, grads = f(np.zeros(2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     f.save(os.path.join(folder, "distance.py"))
        ...     module = {}
        ...     with open(os.path.join(folder, "distance.py")) as file:
        ...         exec(file.read(), module)
        >>> module["loss_and_gradient"](np.array([1.0, 2.0]), np.zeros(2))
        (np.float64(5.0), array([2., 4.]))
        """
        from minidiff.program.module import module_of, save

        path = os.fspath(path)
        stem, ending = os.path.splitext(os.path.basename(path))
        if ending != ".py" or not stem.isidentifier() or keyword.iskeyword(stem):
            raise ValueError(f"save: the file must be named as a module is, such as step.py, got {path!r}")
        programs = list(self._programs.values())
        if not programs:
            raise ValueError("save: nothing has been recorded yet: call it with arguments as they will be")
        functions = [
            (made.lines, f"The loss and its gradient, for {made.signature or 'no arguments'}.", made.inputs)
            for made in programs
        ]
        if self._opt is not None:
            made = programs[0]
            step = Together(self._opt, Params(self._ps), made.names, np.inf)
            step.record(made.gradients)
            if step.lines is None or step.apart:
                why = "; ".join(f"{name}: {reason}" for name, reason in step.apart.items())
                raise TypeError(
                    f"save: the optimiser's step cannot be written down ({why}): save compiled(loss, θ), and "
                    "step with its gradients"
                )
            about = f"The step of {self._opt!r}: parameters and what it keeps, as they are afterwards."
            functions.append((step.lines, about, step.inputs))
        module = module_of(f"What minidiff recorded of {self._name}, as plain NumPy.", functions)
        for made in programs:
            if made.has_changed():
                raise ValueError(
                    f"save: data that {self._name} reads have changed since it was recorded for "
                    f"{made.signature or 'no arguments'}: call it so once more, then save"
                )
        save(path, *module)

    def __repr__(self) -> str:
        what = "loss and gradient" if self._opt is None else f"step of {self._opt!r}"
        lines = [f"compiled {self._name}: {what}"]
        programs = list(self._programs.values())
        lines += [f"  ({made.signature})  {made.lines.length} operations" for made in programs]
        for step in self._together():
            if step.lines is not None:
                lines.append(f"  step  {step.lines.length} operations")
            lines += [f"  step of {name} by update: {why}" for name, why in step.apart.items()]
        return "\n".join(lines if programs else [*lines, "  not recorded yet: call it"])

    def __reduce__(self) -> Any:
        return compiled, (self._loss, self._params, self._opt)

    def trainable(self) -> Any:
        """Give `params` what to look into."""
        return self._loss if self._params is None else self._params

    # --- Recording ---

    def _first(self, key: Any, args: tuple[Any, ...], stale: _Made | None = None) -> Any:
        """Record a program for these arguments, compare it with the loss itself, and give what this gives.

        The program takes the place of `stale`.
        """
        with self._lock:
            if self._programs.get(key) is not stale:  # another thread has made one meanwhile
                return self(*args)
            if stale is not None:
                self._recorded -= stale.ran >= WORTH
                del self._programs[key]
            started = time.perf_counter()
            bound = Bindings(Reach(self._loss, args), args)  # before the loss runs: it may count its calls
            result = self._on_copies(args)
            made = self._checked(args, result, bound)
            self._recorded += 1
            self._spent += time.perf_counter() - started
            self._warn_of_what_takes_long(key, stale.bound.changed if stale else "")
            self._programs[key] = made
        if self._opt is None:
            return result
        return self._step(made, (result.val, *[g for g in result.grad.values() if g is not None]))

    def _warn_of_what_takes_long(self, key: Any, changed: str) -> None:
        """Warn, of each once: of many recordings, of slow ones, of an argument that takes long to compare."""
        objects = [part for part in key if type(part) is tuple and part and not isinstance(part[0], type)]
        held = max(map(len, objects), default=0)
        if self._recorded == MANY:
            self._warn(
                "many recordings",
                f"has been recorded {MANY} times, for other signatures or data; after {KEPT} it runs as it "
                "is. Is an argument an integer that counts? Pass float(i), which may vary. Has an array "
                "another shape, or an object other attributes, each time? Does an array change that the loss "
                "makes others of, or is a variable bound anew? Pass it as an argument."
                + (f" The last to change was {changed!r}." if changed else ""),
            )
        if self._recorded > 1 and self._spent > LONG:
            self._warn(
                "slow recordings",
                f"has been recorded {self._recorded} times, in {self._spent:.0f} s: each time it looks "
                "through all that the loss reaches. Where an argument picks one of many things, pass that.",
            )
        if held > HELD:
            self._warn(
                "a large argument",
                f"has an argument that holds {held} things, all of which are compared at every call: pass "
                "what it computes with.",
            )

    def _warn(self, of: str, words: str) -> None:
        if of not in self._warned:
            self._warned.add(of)
            warn(f"compiled: {self._name} {words}")

    def _checked(self, args: tuple[Any, ...], result: WithGradient, bound: Bindings) -> _Made:
        """Make a program, if it is sure to give what the loss gives."""
        reach = Reach(self._loss, args)
        bound.add_made(reach)
        names, seen, large = Names(reach, args, self._ps), reach.snapshot(), list[Seen]()
        all_are_seen = len(seen) == len(reach.arrays)
        with ExitStack() as over:
            try:
                with_found = self._with_found(reach, names, args) if reach.arrays else None
                if with_found:
                    over.callback(with_found.forget)
                if with_found and with_found.refusal is None:
                    # Into an array that a stand-in stood for, nothing has been written.
                    rest = with_found.reach
                    watched = [one for one in seen if one.objects is not None or rest.finds(one.array)]
                    self._refuse_changes(watched)
                    try:
                        return self._program(bound, names, args, result, with_found, watched)
                    except RefusedError as error:  # the loss may go by the type of an array
                        with_found = with_found._replace(refusal=error.with_traceback(None))
                refusal = with_found.refusal if with_found else None
                if refusal is not None and not all_are_seen:
                    if isinstance(refusal, FillsError):  # it may fill a large array, which cannot be put back
                        raise refusal
                    large = reach.snapshot(of_large=True)  # to see whether the loss writes into one
                with _not_written(large, refusal):
                    plain = self._twice(reach, names, args)
                over.callback(plain.forget)
            except BaseException:
                for one in seen:
                    one.put_back()
                raise
            self._refuse_changes(seen + large)
            best = with_found if with_found and plain.first is None else plain
            if best.refusal is not None and (best.first is None or not all_are_seen):
                raise best.refusal from (refusal if best is plain else None)
            return self._program(bound, names, args, result, best, seen)

    def _refuse_changes(self, watched: list[Seen]) -> None:
        """Refuse a loss that has written into an array that it finds, and put back what was there."""
        changed = [one for one in watched if one.has_changed()]
        for one in changed:
            one.put_back()
        if changed:
            raise KeepsError(
                f"compiled: {self._name} changes {changed[0].name or 'an array that it finds'} in place, "
                "which its program would not. Compute it outside of the loss, or do without compiled."
            )

    def _with_found(self, reach: Reach, names: Names, args: tuple[Any, ...]) -> _Twice:
        """Record with stand-ins for found arrays, or tell why that cannot be."""
        try:
            return self._twice(reach, names, args, True)
        except KeepsError:
            raise
        except failures() as error:  # what leads to an array cannot be copied, or the loss looks at values
            refusal = error if isinstance(error, RefusedError) else RefusedError(f"compiled: {error}")
            return _Twice(None, set(), refusal.with_traceback(None), reach)

    def _program(
        self,
        bound: Bindings,
        names: Names,
        args: tuple[Any, ...],
        result: WithGradient,
        recorded: _Twice,
        watched: list[Seen],
    ) -> _Made:
        """Make a program of a recording, and compare what it gives."""
        name, (first, found, *_) = self._name, recorded
        if type(first.value) is not StandIn:
            self._refuse_used_up(args)
            advice = [f" An integer is a constant: pass {x}.0." for x in args if type(x) is int]
            raise RefusedError(
                f"compiled: {name} reaches none of its parameters and arguments: its value would be that "
                f"of the recording for ever.{''.join(advice[:1])}"
            )
        made = _Made(self._params, first, names, found, args)
        bound.settle()
        made.watch(watched, bound)
        if self._opt is not None and self._steps is None:
            self._steps = Steps(self._opt, self._ps, names.of_parameters)
        made.inputs = [*map(_without_memory, first.inputs.values())]
        every = made.run(*first.inputs.values())
        if not equal(parts_of(result), parts_of(made.result(every))):
            self._refuse_used_up(args)
            raise RefusedError(
                f"compiled: the program of {name} does not give what {name} gives. It changes an array while "
                f"it runs, depends on earlier calls or goes by a value's type: compute new arrays, {_TYPES}."
            )
        made.gradients = made.gradients_of(every)
        return made

    def _refuse_used_up(self, args: tuple[Any, ...]) -> None:
        """Refuse what the loss can go through only once, so that the recording has found nothing in it."""
        for x in objects_in(args):
            if hasattr(type(x), "__next__") and type(x).__module__ == "builtins":
                raise RefusedError(
                    f"compiled: an argument of {self._name} is or holds a {type(x).__name__}, which is used "
                    "up when it has been gone through once: pass a list of it."
                )

    def _twice(self, reach: Reach, names: Names, args: tuple[Any, ...], for_found: bool = False) -> _Twice:
        """Record twice, with stand-ins for found arrays or without, and compare."""
        name, before, rest = self._name, reach.random_state(), reach
        put_backs = [reach.remembered(args)]

        def copier(leaf: Callable[[Any, int], Any]) -> Callable[[Any], Any]:
            nonlocal rest
            if not for_found:
                return lambda x: x
            copied = with_stand_ins(reach, leaf)
            rest = Reach(copied(self._loss), [*map(copied, objects_in(args))], copied)
            put_backs.append(rest.remembered(()))
            return copied

        def put_back() -> list[str]:
            return [held for some in put_backs for held in some()]

        recordings, kept, refusal = list[_Recording](), list[str](), None
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                recordings.append(self._recording(copier, names, args))
                kept += put_back()
                recordings.append(self._recording(copier, names, args, True))
            except RefusedError as error:
                refusal = error.with_traceback(None)
            finally:
                kept += put_back()
        if kept:
            raise KeepsError(
                f"compiled: {name} keeps what it computes in {kept[0] or 'what it finds'}, which its program "
                "would not. Compute it outside of the loss, or do without compiled."
            )
        if reach.random_state() != before:
            raise RefusedError(
                f"compiled: {name} draws random numbers, which would be those of the recording for ever. "
                "Draw them before, and pass them as arguments."
            )
        if refusal is not None:
            for recording in recordings:
                recording.listing.forget()
            return _Twice(None, set(), refusal, rest)
        first, second = recordings
        for recording in recordings:
            recording.listing.take_found([x for _, x in rest.found])
        try:
            found = alike(first.listing, second.listing)
            anew = doubt(first.listing, second.listing, reach.makes_numbers)
        except RefusedError:
            first.listing.forget()
            raise
        finally:
            second.listing.forget()
        if anew is not None and (array := rest.array(anew)):
            refusal = RefusedError(
                f"compiled: {anew}, which the loss makes anew, perhaps of {array}, which may change. Make "
                "it before, outside of the loss, or pass what it is made of as an argument."
            )
        return _Twice(first, found, refusal, rest)

    def _recording(
        self, copier: Callable[..., Any], names: Names, args: tuple[Any, ...], is_second: bool = False
    ) -> _Recording:
        """Run the loss with stand-ins, and the way back."""
        listing, inputs, named = Listing(is_second=is_second), dict[str, Any](), dict[str, str]()
        constants: dict[int, Any] = {}
        taken = set(names.taken)

        def standing(x: Any, name: str) -> Any:
            named[name] = name if name.isidentifier() else free_name(name, taken)  # a part's has a point
            inputs[named[name]] = x
            return StandIn(listing, named[name], x)

        def leaf(array: Any, i: int) -> Any:
            if i not in constants:
                constants[i] = listing.constant(array)
            return constants[i]

        for p, name in zip(self._ps, names.of_parameters, strict=True):
            constants[id(p)] = standing(p.value, name)
        copied = copier(leaf)
        loss = copied(self._loss)
        given = [
            stood(arg, name, standing, copied) for arg, name in zip(args, names.of_arguments, strict=True)
        ]
        f, variables = (loss, given) if self._params is None else ((lambda: loss(*given)), [self._params])

        def back_and_forth() -> tuple[Any, ...]:
            value, node, roots, regrouped = _record(f, tuple(variables), "compiled")
            _check_loss(example(value))
            listing.phase = "backward"
            return value, _pull(value, node, roots), roots, regrouped

        try:
            value, gradients, roots, regrouped = standing_for_leaves(leaf, back_and_forth)
        except Exception as error:
            if listing.refusal is None:
                add_note(error, f"compiled: {self._name} runs, but not to be recorded. Perhaps {_TYPES}.")
                raise
        finally:
            listing.phase = "over"
        listing.check()
        places = list(range(len(roots)))
        template = places if self._params is not None else regrouped(places)
        return _Recording(listing, inputs, named, value, gradients, template)


@contextmanager
def _not_written(arrays: list[Seen], refusal: RefusedError | None) -> Iterator[None]:
    """Let nobody write into large found arrays for a while, if a loss is refused that perhaps does."""
    found = [one.array for one in arrays] if isinstance(refusal, WritesError) else []
    writeable = [x for x in found if is_ndarray(x) and x.flags.writeable]
    try:
        for x in writeable:
            x.flags.writeable = False
        yield
    except ValueError:
        if writeable and refusal is not None:
            raise refusal from None
        raise
    finally:
        for x in sorted(writeable, key=lambda x: len(owners_of(x))):  # a view only after its owner
            x.flags.writeable = True


class _Twice(NamedTuple):
    first: Any  # the first of the two recordings; None if one was refused
    found: set[int]  # the ids of those of its constants that the loss finds
    refusal: RefusedError | None  # why it will not do, if so
    reach: Reach  # what finds the arrays that were not stood in for

    def forget(self) -> None:
        """Let go of the arrays of the recording."""
        if self.first is not None:
            self.first.listing.forget()


class _Recording(NamedTuple):
    listing: Listing
    inputs: dict[str, Any]  # by their names, in the program's order
    named: dict[str, str]  # their names, by those of parameters, arguments and parts of these
    value: Any
    gradients: list[Any]
    template: Any  # places of the gradients, nested as the arguments are


class _Made:
    """A program, and how its outputs become a result.

    Attributes
    ----------
    lines : Lines
        The program.
    names : list of str
        What the variables are called.
    reached : list of int
        The places of those that have a gradient.
    inputs, gradients : list of ndarray
        Outlines, and examples.
    step : Together or None
        What takes a step with the gradients.
    ran : int
        How often it has run.
    bound : Bindings
        What the names are bound to that the loss uses.
    has_changed : callable
        Tells whether that, or the data, are others by now.
    signature : str
        What it was recorded for.
    """

    def __init__(
        self, ps: Params | None, r: _Recording, names: Names, found: set[int], args: tuple[Any, ...]
    ) -> None:
        named = list(zip(names.of_arguments, args, strict=True))
        self.names = names.of_parameters if ps is not None else [
            r.named.get(name, name) for argument, x in named for name in _leaf_names(argument, x)
        ]  # fmt: skip
        self.reached = [i for i, g in enumerate(r.gradients) if g is not None]
        inputs = [*r.inputs]
        outputs, taken = {"value": r.value}, {"value", *inputs}
        for i in self.reached:
            outputs[free_name(f"d{self.names[i]}", taken)] = r.gradients[i]
        self.lines = Lines(r.listing, inputs, outputs, found, names.of_constants, "loss_and_gradient", True)
        self.run = self.lines.run
        asked = {f"x{i}": x for i, x in enumerate(r.listing.assumed)}
        self._looked_at: Callable[[], tuple[Any, ...]] = tuple
        if asked:
            self._looked_at = Lines(r.listing, [], asked, found, names.of_constants, "looked_at").run
        self.step: Together | None = None
        self.ran = 0
        self.bound: Bindings
        self.has_changed: Callable[[], bool] = bool
        self.inputs: list[Any] = []
        self.gradients: Any = ()
        self.signature = ", ".join(f"{name}: {outlined(x)}" for name, x in named)
        self._params, self._ps = ps, None if ps is None else list(ps)
        self._count, self._template = len(self.names), r.template
        self._reaches_all = len(self.reached) == self._count
        self._is_flat = r.template == tuple(range(self._count))

    def watch(self, arrays: list[Seen], bound: Bindings) -> None:
        """Have it made anew where the loss would find another value where it has looked at one.

        What names are bound to is compared, and the arrays of which it makes what is a constant here.
        """
        self.bound, looked_at = bound, self._looked_at

        def seen() -> list[Any] | None:
            with trying():  # with these data the loss may look at something else, or fail as well
                return [*map(_bits, looked_at())]
            return None

        were = seen()

        def has_changed() -> bool:
            return bound.have_changed() or any(array.has_changed() for array in arrays) or seen() != were

        self.has_changed = has_changed if arrays or were else bound.have_changed

    def gradients_of(self, every: Sequence[Any]) -> Any:
        """Give the gradients among the program's outputs, with None where there is none."""
        if self._reaches_all:
            return every[1:]
        gs = [None] * self._count
        for i, g in zip(self.reached, every[1:], strict=True):
            gs[i] = g
        return gs

    def result(self, every: tuple[Any, ...]) -> WithGradient:
        """Give what `withgradient` would."""
        val, gs = every[0], self.gradients_of(every)
        if self._ps is not None:
            return WithGradient(val, Grads(self._ps, gs, self._params))
        return WithGradient(val, tuple(gs) if self._is_flat else _filled(self._template, gs))


def _parameters(f: Callable[..., Any]) -> list[str]:
    try:
        return [*inspect.signature(f).parameters]
    except (TypeError, ValueError):
        return []


def _without_memory(x: Any) -> Any:
    """Give what has an array's shape, dtype and layout, and no memory: it is not to be read."""
    return as_strided(np.empty((), x.dtype), x.shape, x.strides) if type(x) is np.ndarray else x


def _bits(x: Any) -> tuple[tuple[int, ...], bytes]:
    x = np.asarray(x)
    return x.shape, x.tobytes()


def _filled(template: Any, gs: list[Any]) -> Any:
    if isinstance(template, int):
        return gs[template]
    return map_container(lambda x: _filled(x, gs), template)


def _leaf_names(name: str, x: Any) -> Iterator[str]:
    """Name the variables of an explicit gradient, in order."""
    if _variable(x) is not None:
        yield name
    elif isinstance(x, (list, tuple, dict)):
        for key, item in x.items() if isinstance(x, dict) else enumerate(x):
            yield from _leaf_names(f"{name}.{key}", item)
