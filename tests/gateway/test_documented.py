"""docs/gateway.md has every setting with its default, and the guide's agents are good."""

import re
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import BaseModel

from tollgate.gateway.agent import Agent, Deadlines, Demo, HttpSettings, ServiceSettings, duration
from tollgate.gateway.agent_file import load

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/gateway.md").read_text()
GUIDE = (ROOT / "docs/guides/first-agent.md").read_text()
PARTS = {"demo", "payment_service", "deadlines", "http"}


@pytest.mark.parametrize("model", [Agent, Deadlines, Demo, HttpSettings, ServiceSettings])
def test_every_setting_is_there(model: type[BaseModel]) -> None:
    for name in set(model.model_fields) - PARTS:
        assert f"`{name}`" in PAGE, name


@pytest.mark.parametrize("name", sorted(PARTS))
def test_every_part_is_there(name: str) -> None:
    assert f"**`[{name}]`**" in PAGE


@pytest.mark.parametrize("name", Deadlines.model_fields)
def test_deadlines_have_their_default(name: str) -> None:
    (told,) = re.findall(rf"^\| `{name}` \| `(\w+)` \|", PAGE, re.MULTILINE)
    assert duration(told) == Deadlines.model_fields[name].default


@pytest.mark.parametrize(
    "name",
    ["requests_per_s", "hires_per_s", "concurrency", "concurrency_per_address", "timeout_s"],
)
def test_limits_have_their_default(name: str) -> None:
    told = re.findall(rf"^\| `{name}` \| ([\d,]+) \|", PAGE, re.MULTILINE)[-1]
    assert float(told.replace(",", "")) == HttpSettings.model_fields[name].default


def test_agents_of_the_guide_are_good(tmp_path: Path) -> None:
    found = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
    assert len(found) == 2
    for number, text in enumerate(found):
        path = tmp_path / f"agent{number}.toml"
        long_enough = text.replace("the agent identifier that the registry shows", "a" * 60)
        path.write_text(long_enough)
        assert load(str(path)).queue == "headlines"


def test_agent_of_the_example_is_good() -> None:
    agent = load(str(ROOT / "examples/hired_agent/agent.toml"))
    assert agent.is_free
    assert agent.deadlines.pay_by == timedelta(hours=1)
