"""A few hundred damaged messages and files for each decoder; run.py does as many as asked for."""

import contextlib

import pytest

pytest.importorskip('hypothesis', reason='needs hypothesis, of the extra dev')

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies_documents import document_families
from strategies_images import image_families

FAMILIES = {**image_families(), **document_families()}


@pytest.mark.parametrize('name', FAMILIES)
def test_nothing_but_the_documented_error(name: str) -> None:
    family = FAMILIES[name]

    @settings(
        max_examples=200,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def decode(data: st.DataObject) -> None:
        value = data.draw(family.values)
        with contextlib.suppress(family.error):
            family.decode(value)

    decode()
