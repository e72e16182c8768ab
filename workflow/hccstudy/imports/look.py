"""What a DICOM folder or a mask holds, for the terminal: reports and logs keep none of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.errors import InvalidDicomError

from hccstudy.errors import StudyError
from hccstudy.imports.dicom import described, read_dicom, scan_series
from hccstudy.imports.images import is_image_file, read_image_file, unreadable
from hccstudy.tables import files_below

EXPECTED = "a DICOM folder, SEG, RTSTRUCT, or an image file (NIfTI, NRRD, MetaImage)"
MOST = 200  # values of a mask


def look(path: Path) -> Iterator[str]:
    """Lines on the series of a folder or file (what column series_uid and `series.description` choose by), on the labels of
    a mask of any kind (what column label names), and on the files of a folder by the numbers that the ledger gives them.
    """
    if not path.exists():
        raise StudyError(f"{path}: no such file or folder; expected {EXPECTED}")
    files = files_below(path) if path.is_dir() else [path]
    if len(files) == 1 and is_image_file(files[0]):
        yield from _voxels(files[0])
    elif len(files) == 1:
        yield from _labels(files[0])
    else:
        for uid, slices in scan_series(path, "image").items():
            modality = slices[0].header.get("Modality")
            yield f"series_uid {uid}: {len(slices)} slices, {modality}, {described(slices)!r}"
        for number, file in enumerate(files, start=1):
            yield f"file {number} of {len(files)}: {file}"


def _voxels(file: Path) -> Iterator[str]:
    image = read_image_file(file, "mask")
    size, spacing = (" x ".join(f"{value:g}" for value in values) for values in (image.GetSize(), image.GetSpacing()))
    yield f"{file}: {size} voxels of {spacing} mm"
    values, counts = np.unique(sitk.GetArrayViewFromImage(image), return_counts=True)
    if len(values) > MOST or (values != values.round()).any():
        yield f"{len(values)} values from {values[0]:g} to {values[-1]:g}: an image, no mask"
    else:
        yield from (f"label {value:g}: {count:,} voxels" for value, count in zip(values, counts, strict=True) if value)


def _labels(file: Path) -> Iterator[str]:
    try:
        with unreadable(file, "mask"):
            header = read_dicom(file, stop_before_pixels=True)
    except InvalidDicomError as error:
        raise StudyError(f"{file}: not a DICOM file; expected {EXPECTED}") from error
    yield f"{file}: {header.get('Modality')}, series_uid {header.get('SeriesInstanceUID')}, {header.get('SeriesDescription')!r}"
    for item in header.get("SegmentSequence") or []:
        yield f"label {item.get('SegmentNumber')} {str(item.get('SegmentLabel'))!r}"
    for item in header.get("StructureSetROISequence") or []:
        yield f"label {item.get('ROINumber')} {str(item.get('ROIName'))!r}"
