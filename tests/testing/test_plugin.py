"""The pytest plugin: its fixtures work for users of any style, and cost nothing unless used."""

import pytest

pytest_plugins = ["pytester"]

OPTIONS = ("-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:hypothesispytest")


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    return pytester.runpytest_subprocess(*OPTIONS, *arguments, timeout=50)


def test_fixtures_in_tests_of_all_kinds(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import unittest
        import pytest, tollgate
        from tollgate.testing import Broker

        def test_broker_and_client(tollgate_broker, tollgate_client):
            job = tollgate_broker.pay(tollgate_client.create(input="a", delay_s=60))
            tollgate_broker.advance(60)
            assert [each.job.job_id for each in tollgate_client.claim("running")] == [job.job_id]

        def test_another_one(tollgate_broker, tollgate_client):
            assert tollgate_client.count().total == 0

        @pytest.mark.asyncio
        async def test_asyncio(tollgate_broker):
            async with tollgate_broker.connect_async() as client:
                assert (await client.count()).total == 0

        class TestWithSettings:
            @pytest.fixture
            def tollgate_broker_settings(self, tmp_path):
                return {"text_bytes": 100, "data_dir": tmp_path / "data"}

            def test_small(self, tollgate_broker, tollgate_client):
                with pytest.raises(tollgate.TooLargeError):
                    tollgate_client.create(input="a" * 101)
                job = tollgate_client.create(input="a")
                tollgate_broker.restart()
                assert tollgate_client.get(job.job_id) == job

        class Old(unittest.TestCase):
            def test_context(self):
                broker = self.enterContext(Broker())
                assert broker.connect().count().total == 0
        """
    )
    run(pytester).assert_outcomes(passed=5)


def test_a_fault_of_the_broker_is_told(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest, tollgate

        def test_it(tollgate_broker, tollgate_client):
            def run(*_, **__):
                raise ZeroDivisionError("by nought")
            tollgate_broker._running()._assembled.pipeline.run = run
            tollgate_client.count()
        """
    )
    result = run(pytester)
    result.assert_outcomes(failed=1, errors=1)
    result.stdout.fnmatch_lines(["*ClientClosedError*"])
    result.stdout.fnmatch_lines(["*BrokerFailedError: *ZeroDivisionError: by nought"])


def test_a_run_without_it_loads_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_modules(request):
            assert request.config.pluginmanager.hasplugin("tollgate")
            ours = {name for name in sys.modules if name.partition(".")[0] == "tollgate"}
            assert ours == {"tollgate", "tollgate.pytest_plugin"}
            heavy = {"msgspec", "pydantic", "pydantic_settings", "structlog", "zmq"}
            assert not heavy & sys.modules.keys()
        """
    )
    run(pytester).assert_outcomes(passed=1)


def test_fixtures_are_listed_with_what_they_do(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--fixtures")
    for name in ("tollgate_broker", "tollgate_broker_settings", "tollgate_client"):
        result.stdout.fnmatch_lines([f"{name} -- *"])
