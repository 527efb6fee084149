"""What a check is: a method whose name says what must hold, and which fails with what to do."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn, TypeVar
from unittest import SkipTest

from edgelora.errors import EdgeloraError, PluginBug
from edgelora.raised import described_exception
from edgelora.registry import HEAVY
from edgelora.registry.status import TELL_ITS_AUTHOR

PREFIX = "test_"
_IN_LIBRARIES = {*HEAVY, "edgelora", "pydantic", "importlib"}
"""Folders of files in which an author does not look for a fault of theirs."""
Made = TypeVar("Made")


class Conformance:
    """Base class of the kit: what its checks share is made once per subclass."""

    _kept: ClassVar[dict[Any, Any]] = {}
    _notes: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._kept, cls._notes = {}, {}

    def keep(self, key: Any, make: Callable[[], Made]) -> Made:
        """What ``make`` returned the first time, for all checks of this class.

        What it raised the first time is raised again: what takes long fails once.
        """
        if key not in self._kept:
            try:
                self._kept[key] = make()
            # Whatever it is, it is raised; SystemExit too, which a plugin may cause.
            except (Exception, SystemExit) as error:
                self._kept[key] = _Raised(error)
        made = self._kept[key]
        if isinstance(made, _Raised):
            raise made.error
        kept: Made = made
        return kept

    def note(self, check: str, text: str) -> None:
        """Add a measured value to the line of a check in the report."""
        self._notes[check] = text


@dataclass(frozen=True, slots=True)
class _Raised:
    error: BaseException


def require(holds: object, message: str) -> None:
    """Fail the check with ``message`` unless ``holds``; unlike ``assert``, under ``python -O`` as well.

    Raises:
        AssertionError: It does not hold.
    """
    if not holds:
        raise AssertionError(message)


def skip(reason: str) -> NoReturn:
    """Leave the check out; pytest and unittest know this exception.

    Raises:
        SkipTest: Always.
    """
    raise SkipTest(reason)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What became of one check.

    Attributes:
        check: Its name: ``"starts_as_the_base"``.
        outcome: ``ok``, ``failed`` or ``skipped``.
        detail: Why it failed or was skipped, or what was measured.
    """

    check: str
    outcome: Literal["ok", "failed", "skipped"]
    detail: str = ""

    @property
    def sentence(self) -> str:
        """The check's name for people."""
        return self.check.replace("_", " ")


def check_names(kind: type[Conformance]) -> list[str]:
    """Names of the checks of a class without ``test_``, those it inherits first."""
    found: dict[str, None] = {}
    for owner in reversed(kind.__mro__):
        found |= {name: None for name in vars(owner) if name.startswith(PREFIX)}
    return [name.removeprefix(PREFIX) for name in found]


def run_checks(kind: type[Conformance], leave_out: Collection[str] = ()) -> Iterator[CheckResult]:
    """Run the checks of a class one after the other, without pytest."""
    for name in check_names(kind):
        if name not in leave_out:
            yield run_check(kind, name)


def run_check(kind: type[Conformance], name: str) -> CheckResult:
    """Run one check in an instance of its own."""
    try:
        getattr(kind(), PREFIX + name)()
    except SkipTest as reason:
        return CheckResult(name, "skipped", str(reason))
    except AssertionError as failure:
        return CheckResult(name, "failed", str(failure) or _raised(failure))
    except PluginBug as bug:
        # Who reads this is the author; the fix is for users but for what stands after that.
        fix = bug.fix.partition(TELL_ITS_AUTHOR)[2].removeprefix(": ")
        return CheckResult(name, "failed", f"{bug.problem}; {fix}" if fix else bug.problem)
    except EdgeloraError as error:
        return CheckResult(name, "failed", f"raised {type(error).__name__}: {error.problem} ({error.fix})")
    # A plugin is a stranger's code: whatever it raises, even sys.exit(), is what the check found.
    except (Exception, SystemExit) as error:
        return CheckResult(name, "failed", _raised(error))
    return CheckResult(name, "ok", kind._notes.get(name, ""))


def _raised(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"raised {described_exception(error)}"
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not _IN_LIBRARIES.intersection(Path(frame.filename).parts)]
    frame = [*frames[-1:], *theirs][-1]
    text = " ".join(str(error).split())
    return f"raised {type(error).__name__}: {text} ({frame.filename}:{frame.lineno})"
