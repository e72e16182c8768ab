"""What a DICOM folder or a mask holds, for the terminal: reports and logs keep none of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydicom.errors import InvalidDicomError

from hccstudy.errors import StudyError
from hccstudy.imports.dicom import described, read_dicom, scan_series
from hccstudy.imports.images import unreadable
from hccstudy.tables import files_below


def look(path: Path) -> Iterator[str]:
    """Lines on the series of a folder or file (what column series_uid and `series.description` choose by), on the labels of
    a SEG or RTSTRUCT (what column label names), and on the files of a folder by the numbers that the ledger gives them.
    """
    if not path.exists():
        raise StudyError(f"{path}: no such file or folder; expected a DICOM folder, SEG or RTSTRUCT")
    files = files_below(path) if path.is_dir() else [path]
    if len(files) == 1:
        yield from _labels(files[0])
    else:
        for uid, slices in scan_series(path, "image").items():
            modality = slices[0].header.get("Modality")
            yield f"series_uid {uid}: {len(slices)} slices, {modality}, {described(slices)!r}"
        for number, file in enumerate(files, start=1):
            yield f"file {number} of {len(files)}: {file}"


def _labels(file: Path) -> Iterator[str]:
    try:
        with unreadable(file, "mask"):
            header = read_dicom(file, stop_before_pixels=True)
    except InvalidDicomError as error:
        raise StudyError(f"{file}: not a DICOM file; expected a DICOM folder, SEG or RTSTRUCT") from error
    yield f"{file}: {header.get('Modality')}, series_uid {header.get('SeriesInstanceUID')}, {header.get('SeriesDescription')!r}"
    for item in header.get("SegmentSequence") or []:
        yield f"label {item.get('SegmentNumber')} {str(item.get('SegmentLabel'))!r}"
    for item in header.get("StructureSetROISequence") or []:
        yield f"label {item.get('ROINumber')} {str(item.get('ROIName'))!r}"
