"""Every piece of work as a pytest-benchmark group: ``pytest -n0 benchmarks/bench_peers.py``."""

from typing import Any

import pytest
from workloads import Work, works

pytest.importorskip("pytest_benchmark", reason="pip install 'minidiff[bench]'")

CASES = [(work, contestant) for work in works(10**6) for contestant in work.contestants]


@pytest.mark.parametrize(("work", "contestant"), CASES, ids=[f"{work.name}: {name}" for work, name in CASES])
def test_time(work: Work, contestant: str, benchmark: Any) -> None:
    benchmark.group = work.name
    run = work.makers[contestant]().run
    run()  # what compiles, compiles here
    benchmark(run)
