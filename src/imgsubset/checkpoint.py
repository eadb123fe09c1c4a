"""The state of a long search, kept in a file, so that one that was killed goes on as if nothing had happened."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imgsubset.errors import InputError, OutputError
from imgsubset.files import write_whole
from imgsubset.reading.listing import read_whole
from imgsubset.search.loop import State, TracePoint

SAVE_SECONDS = 10.0  # between two states that are kept
FORMAT = 1


class FileCheckpoint:
    """Keeps the state of one search in a file of numbers and JSON; nothing is unpickled.

    belongs_to  all that decides the result of the search; a file of another search is refused
    """

    def __init__(self, file: str | os.PathLike[str], belongs_to: Mapping[str, Any]) -> None:
        self.file = Path(file)
        # As JSON gives it back, so that what was written compares equal.
        self.belongs_to = json.loads(json.dumps({"format": FORMAT, **belongs_to}))
        self.saved = time.perf_counter()

    def load(self) -> State | None:
        """The state in the file, if it exists.

        Raises InputError if it cannot be read, is damaged, or belongs to another search.
        """
        try:
            with np.load(io.BytesIO(read_whole(self.file)), allow_pickle=False) as arrays:
                values = {name: arrays[name] for name in arrays.files}
            record = json.loads(bytes(values.pop("record")).decode())
            self._check(record["belongs_to"])
            method = {name.removeprefix("method."): torch.from_numpy(v) for name, v in values.items() if "." in name}
            trace = tuple(TracePoint(**point) for point in record["trace"])
            rows, losses = torch.from_numpy(values["rows"]), torch.from_numpy(values["losses"])
            return State(method, rows, losses, trace, tuple(record["counts"]), record["seconds"], record["over"])
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(f"cannot read checkpoint '{self.file}': {error.strerror or error}") from None
        except InputError:
            raise
        except Exception as error:  # a damaged archive raises what it likes
            raise InputError(
                f"checkpoint '{self.file}' is damaged or none of imgsubset's ({error}); delete it to begin anew"
            ) from None

    def _check(self, other: Mapping[str, Any]) -> None:
        for name in (*self.belongs_to, *other):
            mine, its = (json.dumps(one.get(name)) for one in (self.belongs_to, other))
            if mine != its:
                raise InputError(
                    f"checkpoint '{self.file}' belongs to another search: its {name} is {its[:200]}, not {mine[:200]}; "
                    "delete it, or give another file"
                )

    def save(self, state: State, last: bool = False) -> None:
        """Write a state in one step, unless the one before is young and this is not the last."""
        if not last and time.perf_counter() - self.saved < SAVE_SECONDS:
            return
        self.saved = time.perf_counter()
        record = {
            "belongs_to": self.belongs_to,
            "trace": [dataclasses.asdict(point) for point in state.trace],
            "counts": state.counts,
            "seconds": state.seconds,
            "over": state.over,
        }
        arrays = {f"method.{name}": tensor.cpu().numpy() for name, tensor in state.method.items()}
        arrays |= {"rows": state.rows.cpu().numpy(), "losses": state.losses.cpu().numpy()}
        arrays["record"] = np.frombuffer(json.dumps(record).encode(), np.uint8)
        content = io.BytesIO()
        np.savez(content, **arrays)  # type: ignore[arg-type]  # names of arrays are no other parameters
        try:
            write_whole(self.file, content.getvalue())
        except OSError as error:
            raise OutputError(f"cannot write checkpoint '{self.file}': {error.strerror or error}") from None
