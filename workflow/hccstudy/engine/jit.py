"""Compiled kernels: numba with a cache that many processes may share.

A kernel is compiled once and its machine code kept on disk: in `$NUMBA_CACHE_DIR` where that is set, beside the package,
or in the user's cache folder, whichever can be written first; where none can, every process compiles for itself.
numba names the files of a cache by a counter, so two kinds of processors that start at the same time on one shared
folder could take each other's files: each kind has a folder of its own. For the same reason every kernel has fixed
signatures, which are compiled in their order.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from llvmlite import binding

Function = Callable[..., Any]


def _cache_folder() -> Path | None:
    processor = f"{binding.get_host_cpu_name()} {binding.get_host_cpu_features().flatten()}"
    name = f"kernels-{hashlib.sha256(processor.encode()).hexdigest()[:12]}"
    given, caches, home = (os.environ.get(key) for key in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "HOME"))
    beside = str(Path(__file__).parent / "__pycache__")
    user = f"{caches}/hccstudy" if caches else f"{home}/.cache/hccstudy" if home else None
    for place in filter(None, (given, beside, user)):
        folder = Path(place, name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    return None


FOLDER = _cache_folder()
if FOLDER is not None:
    numba.config.CACHE_DIR = str(FOLDER)  # type: ignore[attr-defined]


def kernel(*signatures: str) -> Callable[[Function], Function]:
    """Decorator: compile for these signatures, such as "void(float64[:, ::1], int64)".

    Arithmetic is strict: sums are not reordered and products not fused, so that a kernel which adds in the order of a
    reference has its last bit.
    """

    def compiled(function: Function) -> Function:
        try:
            return numba.njit(list(signatures), cache=FOLDER is not None, nogil=True, error_model="numpy")(function)
        except OSError:  # a full disk, or a cache that went away: this process compiles for itself
            return numba.njit(list(signatures), nogil=True, error_model="numpy")(function)

    return compiled


# for small functions, which become part of the kernels that call them
inlined: Callable[[Function], Function] = numba.njit(inline="always", error_model="numpy")
