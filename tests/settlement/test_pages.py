"""A sample of the long run: `make settlement` reads 1,000 pages."""

import pytest

from tests.settlement.pages import run


@pytest.mark.parametrize("restarts", [0, 3])
async def test_no_payment_is_missed_while_pages_change(restarts: int) -> None:
    outcome = await run(pages=12, restarts=restarts, seed=5)
    assert outcome.running == outcome.jobs == 120
    assert outcome.pages >= 12
    assert (outcome.restarts > 0) == (restarts > 0)
