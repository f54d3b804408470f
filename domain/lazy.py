"""A pydantic model over a struct: what pydantic keeps of a model is made when first needed."""

from collections import deque
from itertools import repeat
from operator import attrgetter
from typing import Any, ClassVar, Self

import msgspec
from pydantic import BaseModel


class LazyModel(BaseModel):
    """A frozen model that may be made of a struct with its fields, and at first is little more.

    Whoever gets a thousand of them looks at a field or two of each, most often. So a fresh model is
    one object with a reference to its struct, and a field is read from there. The `__dict__` and
    the three slots of every pydantic model are filled when anything asks for one of them, which all
    but reading a field does: from then on it is a model as pydantic makes it.

    Several threads may do so at once: each step of it gives the same when done twice.
    """

    __slots__ = ("__weakref__", "_struct")

    _fields_set: ClassVar[set[str]]

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:  # noqa: ANN401 - as pydantic has it
        """Have the fields of a fresh model read from its struct."""
        cls._fields_set = set(cls.model_fields)
        known = {name for base in cls.__mro__[1:] for name in getattr(base, "_fields_set", ())}
        for name in cls._fields_set - known:  # what a base or a mixin says stands
            setattr(cls, name, _Field(name))

    @classmethod
    def from_checked(cls, fields: msgspec.Struct) -> Self:
        """Make a model of `fields`, a struct with all of them, in a few per cent of the usual time.

        Nothing is validated, and `fields` must not change any more: for what a strict decoder or
        the repository has already vouched for.
        """
        model = _new(cls)
        _set_struct(model, fields)
        return model

    @classmethod
    def all_from_checked(cls, fields: list[Any]) -> list[Self]:
        """Make many models as `from_checked` makes one, at the speed of C."""
        if len(fields) == 1:
            return [cls.from_checked(fields[0])]
        models = [*map(_new, repeat(cls, len(fields)))]
        _exhaust(map(_set_struct, models, fields))
        return models

    def _filled(self) -> dict[str, Any]:
        """Return the `__dict__`, with all in it."""
        own = _get_dict(self)  # empty, if there was none
        return own if len(own) >= len(self._fields_set) else _fill(self)

    # Within a method, `self.__dict__` is this as well; an attribute's look-up goes past it.
    __dict__ = property(_filled, BaseModel.__dict__["__dict__"].__set__)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - as pydantic has it
        """Fill a slot of pydantic's that is empty; all else is missing indeed."""
        if name in _SLOTS:
            _fill(self)
            return object.__getattribute__(self, name)
        return super().__getattr__(name)  # type: ignore[misc] # hidden from checkers


class _Field:
    """Reads a field that is not in the `__dict__`, which comes first, from the struct."""

    __slots__ = ("_name", "_read")

    def __init__(self, name: str) -> None:
        self._name = name
        self._read = attrgetter(name)

    def __get__(self, model: LazyModel | None, _: type | None = None) -> Any:  # noqa: ANN401
        if model is None:  # pydantic takes what a class has for the default
            raise AttributeError(self._name)
        try:
            return self._read(_get_struct(model))
        except AttributeError:  # it is not fresh, or is so no more: another thread was quicker
            if self._name in (own := model.__dict__):
                return own[self._name]
            raise


def _fill(model: LazyModel) -> dict[str, Any]:
    """Fill what a fresh model has empty, let go of the struct, and return the `__dict__`."""
    struct = getattr(model, "_struct", None)
    if struct is not None:
        _set_dict(model, msgspec.structs.asdict(struct) | _get_dict(model))
        _set_fields_set(model, type(model)._fields_set)  # noqa: SLF001 - ours
        _set_extra(model, None)
        _set_private(model, None)
        _set_struct(model, None)
    own: dict[str, Any] = _get_dict(model)  # not that of before: another thread may have filled it
    return own


_exhaust = deque[None](maxlen=0).extend
"""Runs through an iterator at the speed of C, and keeps nothing of it."""
_new = object.__new__
# The slots, past the model's refusal to be changed: half of what `object.__setattr__` takes.
_SLOTS = BaseModel.__slots__[1:]
_get_dict = BaseModel.__dict__["__dict__"].__get__
_set_dict = BaseModel.__dict__["__dict__"].__set__
_set_fields_set, _set_extra, _set_private = (BaseModel.__dict__[slot].__set__ for slot in _SLOTS)
_get_struct = LazyModel.__dict__["_struct"].__get__
_set_struct = LazyModel.__dict__["_struct"].__set__
