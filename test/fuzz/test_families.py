"""A few damaged inputs for each reader, and all that failed once; run.py does as many as asked."""

import contextlib
from pathlib import Path

import pytest

pytest.importorskip('hypothesis', reason='needs hypothesis, of the extra dev')

from families import all_families
from family import read_value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FAMILIES = all_families()
CORPUS = sorted(Path(__file__).with_name('corpus').glob('*.yaml'))


@pytest.mark.parametrize('name', FAMILIES)
def test_nothing_but_the_documented_error(name: str) -> None:
    family = FAMILIES[name]

    @settings(
        max_examples=family.examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def read(data: st.DataObject) -> None:
        value = data.draw(family.values)
        with contextlib.suppress(family.error):
            family.read(value)

    read()


@pytest.mark.parametrize('path', CORPUS, ids=[path.stem for path in CORPUS])
def test_what_failed_once(path: Path) -> None:
    name, value = read_value(path)

    with contextlib.suppress(FAMILIES[name].error):
        FAMILIES[name].read(value)
