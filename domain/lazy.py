"""A pydantic model over a struct; pydantic's parts of it are made when they are first needed."""

from operator import attrgetter
from typing import Any, ClassVar, Self

import msgspec
from pydantic import BaseModel


class LazyModel(BaseModel):
    """A frozen model that can be made from a struct with its fields, at little cost.

    The struct may be without fields at the end that have their defaults.

    A caller that gets a thousand models usually reads one or two fields of each. So a fresh model
    is one object with a reference to its struct, and fields are read from there. The `__dict__` and
    the three slots of every pydantic model are filled when one of them is first used, which every
    operation but reading a field does. From then on it is an ordinary pydantic model.

    Several threads may fill a model at once: each step gives the same result when done twice.
    """

    __slots__ = ("__weakref__", "_struct")

    _fields_set: ClassVar[set[str]]
    _defaults: ClassVar[dict[str, Any]]

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:  # noqa: ANN401 - as pydantic has it
        """Make the fields of a fresh model readable from its struct."""
        cls._fields_set = set(cls.model_fields)
        cls._defaults = {
            name: _REQUIRED if field.is_required() else field.default
            for name, field in cls.model_fields.items()
        }
        known = {name for base in cls.__mro__[1:] for name in getattr(base, "_fields_set", ())}
        for name in cls._fields_set - known:  # attributes of a base or a mixin stay
            setattr(cls, name, _Field(name, cls._defaults[name]))

    @classmethod
    def from_checked(cls, fields: msgspec.Struct) -> Self:
        """Make a model from a struct with all fields, in a few per cent of the usual time.

        Nothing is validated, and the struct must not change afterwards: use it for values that a
        strict decoder or the repository has checked.
        """
        model = object.__new__(cls)
        set_struct(model, fields)
        return model

    def _filled(self) -> dict[str, Any]:
        """Return the `__dict__`, filled."""
        own = _get_dict(self)  # empty, if there was none
        return own if len(own) >= len(self._fields_set) else _fill(self)

    # `self.__dict__` calls this property; looking up an attribute does not.
    __dict__ = property(_filled, BaseModel.__dict__["__dict__"].__set__)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - as pydantic has it
        """Fill an empty slot of pydantic; any other name is missing."""
        if name in _SLOTS:
            _fill(self)
            return object.__getattribute__(self, name)
        return super().__getattr__(name)  # type: ignore[misc] # hidden from checkers


class _Field:
    """Reads a field from the struct, if it is not in the `__dict__`, which comes first."""

    __slots__ = ("_default", "_name", "_read")

    def __init__(self, name: str, default: Any) -> None:  # noqa: ANN401 - as pydantic has it
        self._name = name
        self._default = default
        self._read = attrgetter(name)

    def __get__(self, model: LazyModel | None, _: type | None = None) -> Any:  # noqa: ANN401
        if model is None:  # pydantic takes an attribute of the class as the default
            raise AttributeError(self._name)
        try:
            return self._read(_get_struct(model))
        except AttributeError:  # it is filled, maybe by another thread just now
            if self._name in (own := _get_dict(model)):
                return own[self._name]
            if getattr(model, "_struct", None) is not None and self._default is not _REQUIRED:
                return self._default  # the struct is without this field
            if self._name in (own := model.__dict__):
                return own[self._name]
            raise


def _fill(model: LazyModel) -> dict[str, Any]:
    """Fill the empty parts of a fresh model, drop its struct, and return the `__dict__`."""
    struct = getattr(model, "_struct", None)
    if struct is not None:
        fields = type(model)._defaults | msgspec.structs.asdict(struct)  # noqa: SLF001 - ours
        _set_dict(model, fields | _get_dict(model))
        _set_fields_set(model, type(model)._fields_set)  # noqa: SLF001 - ours
        _set_extra(model, None)
        _set_private(model, None)
        set_struct(model, None)
    own: dict[str, Any] = _get_dict(model)  # read it again: another thread may have filled it
    return own


_REQUIRED: Any = object()
"""Stands for the default of a field that has none."""
# The slots, set past the frozen model: half the time of `object.__setattr__`.
_SLOTS = BaseModel.__slots__[1:]
_get_dict = BaseModel.__dict__["__dict__"].__get__
_set_dict = BaseModel.__dict__["__dict__"].__set__
_set_fields_set, _set_extra, _set_private = (BaseModel.__dict__[slot].__set__ for slot in _SLOTS)
_get_struct = LazyModel.__dict__["_struct"].__get__
set_struct = LazyModel.__dict__["_struct"].__set__
"""Gives its struct to a model that `object.__new__` made. `from_checked` does both."""
