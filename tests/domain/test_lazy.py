"""A job made from a checked struct behaves like a validated one in every operation."""

import copy
import pickle
import sys
import weakref
from collections.abc import Callable
from functools import cached_property
from operator import attrgetter
from threading import Barrier, Thread
from typing import Any, cast

import pytest
from pydantic import BaseModel, ConfigDict, PrivateAttr, TypeAdapter, ValidationError

from tollgate.client.results import jobs_from
from tollgate.domain.messages import decode_answer, decode_plain, encode_reply
from tollgate.domain.models import Job, JobStatus
from tollgate.domain.results import JobFields, JobResult, OkResult, PlainJob

from .test_models import fields

FIELDS = tuple(fields())
OTHER = Job(**fields(version=9))
NO_JOBS: tuple[object, ...] = (1, fields(), None, JobFields(**fields()))
ADAPTER = TypeAdapter(Job)


def fresh(**changes: Any) -> Job:
    return Job.from_checked(JobFields(**fields(**changes)))


def one_alone(**changes: Any) -> Job:
    return jobs_from([JobFields(**fields(**changes))])[0]


def one_of_many(**changes: Any) -> Job:
    some = [fields(), fields(**changes), fields()]
    return jobs_from([JobFields(**each) for each in some])[1]


class Holder(BaseModel):
    job: Job
    jobs: list[Job] = []


class Strict(BaseModel):
    model_config = ConfigDict(revalidate_instances="always")

    job: Job


class OnlyStatus(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    job_id: str
    status: JobStatus


def refusal(act: Callable[[Job], object]) -> Callable[[Job], str]:
    def refused(job: Job) -> str:
        with pytest.raises((ValidationError, AttributeError)) as caught:
            act(job)
        return f"{type(caught.value).__name__}: {caught.value}"

    return refused


def pickled(protocol: int) -> Callable[[Job], Job]:
    return lambda job: pickle.loads(pickle.dumps(job, protocol))  # noqa: S301 - our own bytes


def matched(job: Job) -> object:
    match job:
        case Job(status=JobStatus.RUNNING, version=version):
            return version
    return None


def changed_by_force(job: Job) -> Job:
    object.__setattr__(job, "error", "x")
    return job


OPERATIONS: dict[str, Callable[[Job], Any]] = {
    "each field": lambda job: [getattr(job, name) for name in FIELDS],
    "each field, backwards": lambda job: [getattr(job, name) for name in reversed(FIELDS)],
    "type": type,
    "class": lambda job: job.__class__,
    "isinstance": lambda job: (isinstance(job, Job), isinstance(job, BaseModel)),
    "equal": lambda job: job == Job(**fields()),
    "equal from the other side": lambda job: Job(**fields()) == job,
    "equal to another fresh one": lambda job: job == fresh(),
    "equal to another": lambda job: (job == OTHER, job != OTHER),
    "equal to no job": lambda job: [job == other for other in NO_JOBS],
    "hash": hash,
    "in a set": lambda job: len({job, Job(**fields()), fresh(), OTHER}),
    "repr": repr,
    "str": str,
    "rich repr": lambda job: [*cast("Any", job).__rich_repr__()],
    "pretty": lambda job: [*cast("Any", job).__pretty__(str)],
    "iteration": list,
    "dict": dict,
    "vars": vars,
    "dict keys in order": lambda job: [*vars(job)],
    "dir": dir,
    "dump": lambda job: job.model_dump(),
    "dump in order": lambda job: [*job.model_dump().items()],
    "dump without": lambda job: job.model_dump(exclude_none=True, exclude={"version"}),
    "dump what was set": lambda job: job.model_dump(exclude_unset=True),
    "dump what is no default": lambda job: job.model_dump(exclude_defaults=True),
    "dump for json": lambda job: job.model_dump(mode="json"),
    "dump json": lambda job: job.model_dump_json(),
    "dump json what was set": lambda job: job.model_dump_json(exclude_unset=True),
    "fields set": lambda job: job.model_fields_set,
    "extra": lambda job: job.model_extra,
    "pydantic's slots": lambda job: (
        job.__pydantic_fields_set__,
        job.__pydantic_extra__,
        job.__pydantic_private__,
    ),
    "private": lambda job: job.__pydantic_private__,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "model_copy": lambda job: job.model_copy(),
    "model_copy, deep": lambda job: job.model_copy(deep=True),
    "model_copy with an update": lambda job: job.model_copy(update={"error": "x"}),
    "model_copy leaves it": lambda job: (job.model_copy(update={"error": "x"}), job)[1],
    "state": lambda job: job.__getstate__(),
    "pickle 0": pickled(0),
    "pickle 2": pickled(2),
    "pickle 5": pickled(5),
    "validate": Job.model_validate,
    "validate what it dumps": lambda job: Job.model_validate(job.model_dump()),
    "validate its json": lambda job: Job.model_validate_json(job.model_dump_json()),
    "adapter validates": ADAPTER.validate_python,
    "adapter dumps": ADAPTER.dump_python,
    "adapter dumps json": ADAPTER.dump_json,
    "adapter of a list": lambda job: TypeAdapter(list[Job]).dump_json([job]),
    "adapter of anything": lambda job: TypeAdapter(Any).dump_json([job]),
    "in another model": lambda job: Holder(job=job, jobs=[job]).model_dump_json(),
    "in another model, equal": lambda job: Holder(job=job) == Holder(job=Job(**fields())),
    "in a model that looks again": lambda job: Strict(job=job).job,
    "by its attributes": OnlyStatus.model_validate,
    "set a field": refusal(lambda job: setattr(job, "status", "failed")),
    "set what is no field": refusal(lambda job: setattr(job, "colour", "red")),
    "delete a field": refusal(lambda job: delattr(job, "status")),
    "read what is no field": refusal(attrgetter("colour")),
    "read what is private": refusal(attrgetter("_colour")),
    "read a missing dunder": refusal(attrgetter("__colour__")),
    "hasattr": lambda job: (hasattr(job, "status"), hasattr(job, "colour")),
    "set past the refusal": changed_by_force,
    "match": matched,
    "weak reference": lambda job: weakref.ref(job)() is job,
    "schema": lambda job: job.model_json_schema(),
}


@pytest.mark.parametrize("make", [fresh, one_alone, one_of_many])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_on_a_fresh_job(name: str, make: Callable[[], Job]) -> None:
    operation, validated, job = OPERATIONS[name], Job(**fields()), make()
    expected = operation(validated)
    assert operation(job) == expected
    assert operation(job) == expected  # and once more
    assert job == validated
    assert [*vars(job).items()] == [*vars(validated).items()]
    assert job.model_fields_set == set(FIELDS)


@pytest.mark.parametrize("first", OPERATIONS)
def test_any_operation_after_another(first: str) -> None:
    for name, second in OPERATIONS.items():
        validated, job = Job(**fields()), fresh()
        OPERATIONS[first](validated)
        OPERATIONS[first](job)
        assert second(job) == second(validated), name


def test_a_copy_of_a_fresh_job_shares_no_mutable_state() -> None:
    first, second = fresh(), fresh()
    copied = first.model_copy(update={"result": "x"})
    assert (first.result, second.result, copied.result) == (None, None, "x")
    copied.model_fields_set.discard("result")
    assert first.model_fields_set == second.model_fields_set == set(FIELDS)


def test_a_filled_job_keeps_no_reference_to_its_struct() -> None:
    struct = JobFields(**fields())
    before = sys.getrefcount(struct)
    job = Job.from_checked(struct)
    assert job.status is JobStatus.RUNNING
    assert sys.getrefcount(struct) == before + 1  # a field is read without taking it apart
    repr(job)
    assert sys.getrefcount(struct) == before


class Wide(Job):
    """A user's subclass of `Job`: one field added, one narrowed, and a private attribute."""

    input: str
    colour: str = "red"
    _seen: int = PrivateAttr(default=0)

    @cached_property
    def short(self) -> str:
        return self.job_id[:8]


def test_a_job_may_be_inherited_from() -> None:
    wide = Wide(**fields())
    assert (wide.colour, wide._seen, wide.short, wide.version) == ("red", 0, "11111111", 2)
    assert Wide.model_fields["result"].default is None
    assert Wide.model_fields["input"].is_required()
    assert Wide.model_fields["version"].default == 1
    with pytest.raises(ValidationError):
        Wide(**fields(input=None))
    made = Wide.from_checked(JobFields(**fields()))
    assert (made.short, made.status, made.short) == ("11111111", JobStatus.RUNNING, "11111111")
    assert made.colour == "red"  # what it was made of has none: the default


def test_the_class_has_no_field_attributes() -> None:
    for name in FIELDS:
        with pytest.raises(AttributeError, match=name):
            getattr(Job, name)


def test_an_empty_job_raises_attribute_error() -> None:
    empty = Job.__new__(Job)
    assert vars(empty) == {}
    for name in ("status", "__pydantic_extra__", "_struct", "colour"):
        with pytest.raises(AttributeError, match=name):
            getattr(empty, name)
    part = Job.model_construct(job_id="a")  # type: ignore[call-arg] # that is the point
    assert (part.job_id, part.version) == ("a", 1)
    with pytest.raises(AttributeError, match="status"):
        _ = part.status
    assert part.model_fields_set == {"job_id"}


LOOKS: tuple[Callable[[Job], Any], ...] = (
    vars,
    hash,
    lambda job: job.status,
    lambda job: job.model_dump(),
    lambda job: job.model_fields_set,
    lambda job: job == OTHER,
)


def test_threads_that_read_a_job_at_once_see_it_whole() -> None:
    interval = sys.getswitchinterval()
    rounds = [[fresh() for _ in range(50)] for _ in range(20)]
    expected = [look(Job(**fields())) for look in LOOKS]
    barrier = Barrier(len(LOOKS))
    wrong: list[Job] = []

    def look_at_all(look: Callable[[Job], Any], should_be: object) -> None:
        for jobs in rounds:
            barrier.wait()
            wrong.extend(job for job in jobs if look(job) != should_be)

    threads = [Thread(target=look_at_all, args=pair) for pair in zip(LOOKS, expected, strict=True)]
    try:
        sys.setswitchinterval(1e-6)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []
    assert all(vars(job) == fields() for jobs in rounds for job in jobs)


def test_a_job_may_be_filled_during_a_field_lookup(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = fresh()
    read = type(job).__dict__["status"]  # found, since the `__dict__` is empty still
    repr(job)  # the other thread
    assert read.__get__(job, Job) is JobStatus.RUNNING


def plain_fields() -> dict[str, Any]:
    names = PlainJob.__struct_fields__
    return {name: value for name, value in fields().items() if name in names}


def test_a_job_may_be_made_from_fewer_fields() -> None:
    """A reply is read into structs without the fields that most jobs do not have."""
    assert Job.from_checked(PlainJob(**plain_fields())) == Job(**plain_fields())
    for name, operation in OPERATIONS.items():
        made = Job.from_checked(PlainJob(**plain_fields()))
        same = Job.from_checked(JobFields(**plain_fields()))
        assert name == "weak reference" or operation(made) == operation(same), name


def test_plain_jobs_are_read_as_such_and_others_whole() -> None:
    plain, other = JobFields(**plain_fields()), JobFields(**fields())
    for jobs, kind in (([plain, plain], PlainJob), ([plain, other], JobFields)):
        reply = cast("Any", decode_plain(encode_reply(1, [JobResult(job) for job in jobs])))
        assert [type(result.job) for result in reply.results] == [kind, kind]
    mixed = encode_reply(1, [JobResult(plain), OkResult()])
    assert decode_plain(mixed) == decode_answer(mixed)
