"""What may be set of the checks: by a test class, else by the part's own descriptor, else by default."""

from __future__ import annotations

from typing import Any, TypeVar, cast

Value = TypeVar("Value")


class Setting:
    """A class attribute that a subclass replaces, and that ``Part.kit`` may name where none does."""

    def __init__(self, default: Any) -> None:
        self.default = default
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, checks: Any, kind: type) -> Any:
        if checks is None:
            return self.default
        return checks.found().part.kit.get(self.name, self.default)


def setting(default: Value) -> Value:
    """A `Setting` for the type checker: what it reads is a value like ``default``."""
    return cast(Value, Setting(default))


def settings_of(kind: type) -> dict[str, Any]:
    """The settings that a conformance class has, with their defaults."""
    found = [each for owner in reversed(kind.__mro__) for each in vars(owner).values()]
    return {each.name: each.default for each in found if isinstance(each, Setting)}


def changed_settings(kind: type) -> dict[str, Any]:
    """Those that differ from their defaults for the part that a class checks."""
    checks = kind()
    values = {name: getattr(checks, name) for name in settings_of(kind)}
    return {name: value for name, value in values.items() if value != settings_of(kind)[name]}
