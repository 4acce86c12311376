"""The benchmarks compare like with like: every contestant gets the same answer."""

import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))

import growth  # noqa: E402
import ratios  # noqa: E402
from workloads import Work, works  # noqa: E402

WORKS = list(works(largest=100))


def answers(work, name, runs=3):
    run, answer = work.makers[name]()
    for _ in range(runs):
        result = run()
    return [np.asarray(a) for a in answer(result)]


# Libraries of others may warn of their own future.
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.name)
def test_contestants_get_the_same_answer(work):
    first, *peers = work.contestants
    ours = answers(work, first)
    assert all(np.isfinite(a).all() for a in ours)
    for peer in peers:
        theirs = answers(work, peer)
        assert [a.dtype for a in theirs] == [a.dtype for a in ours], peer
        assert [a.shape for a in theirs] == [a.shape for a in ours], peer
        if not work.differs:
            # Three steps of the rules move by some 1e-3.
            tolerance = 1e-5 if ours[0].dtype == np.float32 else 1e-9
            for a, b in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=peer)


def test_the_answers_compared_have_moved():
    for work in WORKS:
        if len(work.contestants) > 1 and not work.title.startswith("gradient,"):
            before, after = (answers(work, work.contestants[0], runs) for runs in (1, 3))
            assert any((a != b).any() for a, b in zip(before, after, strict=True)), work.name


def measured(case, ratio, is_quiet=True):
    work = Work("some work", case, {"minidiff": None, "autograd": None}, {"autograd": 0.5})
    return [
        ratios.Measured(work, "minidiff", 1e-3, 1.0, is_quiet),
        ratios.Measured(work, "autograd", 1e-3 / ratio, ratio, is_quiet),
    ]


def test_a_goal_is_met_if_its_worst_case_is_and_undecided_if_a_case_was_disturbed():
    good, bad, unknown = measured("small", 0.4), measured("large", 0.6), measured("huge", 0.1, is_quiet=False)
    for cases, met in (
        (good, "yes"),
        (good + bad, "no"),
        (good + unknown, "disturbed"),
        (bad + unknown, "no"),
    ):
        assert [goal.met for goal in ratios.goals(cases)] == [met]
    assert ratios.goal_table(ratios.goals(good + bad))[1:] == [
        ["some work", "autograd", "0.40 to 0.60 (large)", "0.5", "no"]
    ]


def test_time_table_names_everybody_but_the_first_as_peer():
    rows = ratios.time_table(measured("small", 0.4))
    assert rows[1] == ["some work, small", "1 ms", "autograd 2.5 ms (0.40)"]


def test_report_goes_between_its_markers_and_nowhere_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- here -->\nold\n<!-- end here -->\nafter\n")
    for text in ("one", r"a \1 of its own"):
        ratios.replace_between("here", page, text)
        assert page.read_text() == f"before\n<!-- here -->\n\n{text}\n\n<!-- end here -->\nafter\n"
    with pytest.raises(ValueError, match="must contain"):
        ratios.replace_between("elsewhere", page, "text")


def test_the_readme_has_the_markers():
    page = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    assert page.count("<!-- measured -->") == page.count("<!-- end measured -->") == 1


def test_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    ratios.draw(ratios.goals(measured("small", 0.4)), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_growth_tables_have_a_row_per_power_of_ten():
    assert [row[0] for row in growth.by_size(1000)] == ["bytes", "10", "100", "1000"]
    assert [row[0] for row in growth.by_length(100)] == ["operations", "10", "100"]


def test_memory_of_a_computation_is_counted_in_proportion_to_its_length():
    x = growth.param(1.0)
    short, long = growth.memory(x, 1000), growth.memory(x, 4000)
    assert 3 < long / short < 5
