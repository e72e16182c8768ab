"""What can go wrong, said so that a person can mend it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass, field

ERROR = "ERROR: "  # begins the last line of a failed job's log
LONGEST = 600  # characters of what was found in a message
# reasons of CaseErrors that may be the disk's or the software's: never kept, the next job tries again
UNREADABLE, UNEXPECTED = "unreadable file", "unexpected error"


class StudyError(Exception):
    """The study cannot go on as it stands; the message says what was found, what was expected and where.

    `problems` has them one by one, where they were collected.
    """

    problems: Problems | None = None


class CaseError(StudyError):
    """One patient cannot go on; the study does.

    `reason` is a short category that the flow diagram counts ("empty mask"), `detail` the whole story for the
    ledger. `excluded=True` means that a rule of the study leaves the patient out; the default is that something
    failed.
    """

    def __init__(self, reason: str, detail: str = "", *, excluded: bool = False) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
        self.excluded = excluded


def is_of_file(error: OSError) -> bool:
    """Whether an error is of one file, and not of the machine or a whole disk. EIO: a part of it that cannot be read."""
    of_file = FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError
    return isinstance(error, of_file) or error.errno == errno.EIO


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was no room in memory, in Python's or in ITK's words."""
    return isinstance(error, MemoryError) or any(word in str(error) for word in ("bad_alloc", "allocate memory"))


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a user's file."""

    file: str
    found: str
    expected: str
    row: int | None = None
    who: str = ""
    column: str = ""

    def __str__(self) -> str:
        where = self.file
        if self.row is not None:
            where += f" row {self.row}"
        if self.who:
            where += f" ({self.who})"
        subject = f"{self.column} is {self.found}" if self.column else self.found
        if len(subject) > LONGEST:
            subject = f"{subject[:LONGEST]}... ({len(subject)} characters)"
        return f"{where}: {subject}; expected {self.expected}"


@dataclass
class Problems:
    """Collects every problem, so that a person sees all of them at once."""

    items: list[Problem] = field(default_factory=list)

    def add(
        self,
        file: str,
        found: str,
        expected: str,
        *,
        row: int | None = None,
        who: str = "",
        column: str = "",
    ) -> None:
        self.items.append(Problem(file, found, expected, row, who, column))

    def __iter__(self) -> Iterator[Problem]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def shown(self, most: int = 5) -> list[str]:
        """A line a problem; of many alike in one column the first few and how many more there are."""
        groups: dict[tuple[str, str, str], list[Problem]] = {}
        for problem in self.items:
            groups.setdefault((problem.file, problem.column, problem.expected), []).append(problem)
        lines: list[str] = []
        for (_, column, expected), alike in groups.items():
            lines += map(str, alike[:most])
            if len(alike) > most:
                rows = f"{column or 'the table'} in {len(alike) - most} more rows"
                lines.append(f"... and {rows}; expected {expected}")
        return lines

    def raise_if_any(self) -> None:
        if self.items:
            count = len(self.items)
            lines = "\n".join(f"  - {line}" for line in self.shown())
            error = StudyError(f"{count} problem{'s' if count > 1 else ''}:\n{lines}")
            error.problems = self
            raise error
