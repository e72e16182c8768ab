"""An image and its mask, as files."""

from __future__ import annotations

from pathlib import Path

import pytest

from imports.phantoms import labels, scan, write


@pytest.fixture
def mask(tmp_path: Path) -> str:
    return write(labels(), tmp_path / "mask.nii.gz")


@pytest.fixture
def image(tmp_path: Path) -> str:
    return write(scan(), tmp_path / "image.nii.gz")
