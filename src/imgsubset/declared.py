"""How an option is declared: once, with all that is to be said of it."""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import Any

from imgsubset.checks import Check
from imgsubset.errors import UsageError, shown
from imgsubset.inputs import of_kind

# What an option decides: what the loss of a given subset is; or which subset comes out, or what is written beside it;
# or nothing but how long it takes. Each level includes those before it.
LOSS, CHOICE, NOTHING = range(3)


def opt(default: Any, decides: int, meaning: str, check: Check | None = None) -> Any:
    """A field of a record: its default, what it decides, what it means, and which values make sense."""
    return field(default=default, metadata={"decides": decides, "meaning": meaning, "check": check})


class Record:
    """Options, each checked; None makes sense where it is the default."""

    def __post_init__(self) -> None:
        for option in dataclasses.fields(self):  # type: ignore[arg-type]  # what derives from this is a dataclass
            value = getattr(self, option.name)
            if value is None and option.default is None:
                continue
            makes_sense, wanted = option.metadata["check"] or (None, "")
            plain = of_kind(option.name, str(option.type).removesuffix(" | None"), value, wanted)
            object.__setattr__(self, option.name, plain)
            if makes_sense is not None:
                try:
                    self.check(makes_sense(plain), option.name, wanted)
                except (TypeError, ValueError):  # of a kind that is not in KINDS, an array
                    self.check(False, option.name, wanted)

    def check(self, good: bool, name: str, wanted: str) -> None:
        """Raise UsageError, which says what is wanted of an option, unless its value is good."""
        if not good:
            raise UsageError(f"{name} {shown(getattr(self, name))} is not {wanted}")
