"""The examples of docs/testing.md are tests, and pass."""

import re

import pytest

from tests.brokers import ROOT

pytest_plugins = ["pytester"]

EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_examples_of_the_guide_pass(pytester: pytest.Pytester) -> None:
    examples = EXAMPLE.findall((ROOT / "docs" / "testing.md").read_text())
    tests = sum(example.count("def test_") for example in examples)
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile(**{f"test_{place}": example for place, example in enumerate(examples)})
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", timeout=50)
    result.assert_outcomes(passed=tests)
    assert len(examples) >= 6
