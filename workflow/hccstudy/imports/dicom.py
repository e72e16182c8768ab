"""DICOM series: which files of a folder are the series, and the regular stack that they must be."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.errors import InvalidDicomError
from pydicom.pixels import apply_modality_lut, get_decoder

from hccstudy.errors import CaseError
from hccstudy.imports.acquisition import KEYWORDS, Header
from hccstudy.imports.geometry import check_grid, check_spacing, stack_slices
from hccstudy.imports.images import unreadable
from hccstudy.imports.suv import KEYWORDS as SUV_KEYWORDS

if TYPE_CHECKING:
    import highdicom

log = logging.getLogger(__name__)

SELECTION = ("SeriesInstanceUID", "SeriesDescription", "Modality", "FrameOfReferenceUID", "NumberOfFrames")
PLANE = ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient")
PIXELS = ("SamplesPerPixel", "PhotometricInterpretation")
NESTED = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
# What may differ between slices that lie at one place, for the message.
REASONS_TO_DIFFER = (
    "AcquisitionNumber",
    "EchoTime",
    "TemporalPositionIdentifier",
    "TriggerTime",
    "ImageType",
)


class Series(NamedTuple):
    """An image as acquired, with what its headers say."""

    image: sitk.Image
    headers: Sequence[Header]
    modality: str
    frame: str  # FrameOfReferenceUID, "" where unknown


class Slice(NamedTuple):
    file: Path
    header: pydicom.Dataset


def read_series(path: Path, series_uid: str, description: str, kind: str = "image") -> Series:
    """The series of a folder (or file) that `series_uid`, else `description` (a regular expression), chooses.

    One series alone needs no choice. Values are after the modality transform (HU, Bq/ml), slice by slice.
    """
    slices = _choose(_scan(path, kind), series_uid, description, path)
    first = slices[0].header
    where = f"{path} (series of {len(slices)} file(s))"
    _check_pixels(slices)
    if len(slices) == 1 and int(first.get("NumberOfFrames") or 1) > 1:
        image = _read_frames(slices[0].file, kind)
        headers: list[Header] = [_flatten(first)]
    else:
        image = _read_slices(slices, where, kind)
        headers = [item.header for item in slices]
    check_grid(image, where)
    return Series(image, headers, str(first.get("Modality") or ""), str(first.get("FrameOfReferenceUID") or ""))


def volume_image(array: np.ndarray[Any, Any], volume: highdicom.Volume) -> sitk.Image:
    """An array (slices, rows, columns) on the grid of a highdicom volume as an image."""
    image = sitk.GetImageFromArray(array)
    image.SetOrigin([float(value) for value in volume.position])
    image.SetSpacing([float(value) for value in volume.spacing[::-1]])
    image.SetDirection(np.asarray(volume.direction, dtype=float)[:, ::-1].ravel().tolist())
    return image


def _scan(path: Path, kind: str) -> dict[str, list[Slice]]:
    """All image headers below `path` by SeriesInstanceUID; what is no DICOM image is passed over."""
    files = sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]
    tags = list(dict.fromkeys((*SELECTION, *PLANE, *PIXELS, *NESTED, *REASONS_TO_DIFFER, *KEYWORDS, *SUV_KEYWORDS)))
    groups: dict[str, list[Slice]] = {}
    for file in files:
        if not file.stat().st_size:
            raise CaseError(f"truncated or unreadable {kind}", f"{file}: the file is empty")
        try:
            with unreadable(file, kind):
                header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=tags)
        except InvalidDicomError:
            continue
        name = pydicom.uid.UID(str(header.file_meta.get("MediaStorageSOPClassUID", ""))).name
        if "Image Storage" not in name:
            continue
        if not header.get("Rows"):
            raise CaseError(f"truncated or unreadable {kind}", f"{file}: the header of a {name} ends before its Rows")
        groups.setdefault(str(header.get("SeriesInstanceUID") or ""), []).append(Slice(file, header))
    if not groups:
        raise CaseError(
            "no DICOM series",
            f"{path}: none of {len(files)} file(s) is a DICOM image; expected a series of slices",
        )
    return groups


def _choose(groups: dict[str, list[Slice]], series_uid: str, description: str, path: Path) -> list[Slice]:
    def said(uid: str) -> str:
        return str(groups[uid][0].header.get("SeriesDescription") or "")

    if series_uid in groups:
        return groups[series_uid]
    if len(groups) == 1 and not series_uid:
        return next(iter(groups.values()))
    # UIDs and descriptions may tell who the patient is: they go to the job's log, numbers go to the ledger.
    for number, (uid, files) in enumerate(groups.items(), start=1):
        log.info("%s: series %d is %s %r, %d slices", path, number, uid or "without UID", said(uid), len(files))
    counts = ", ".join(f"series {number}: {len(files)} slices" for number, files in enumerate(groups.values(), start=1))
    listing = f"found {len(groups)} series ({counts}; the job's log has their UIDs and descriptions)"
    if series_uid:
        raise CaseError(
            "series not found",
            f"{path}: none has the row's series_uid; {listing}; expected the series_uid of one of them",
        )
    matching = [uid for uid in groups if description and re.search(description, said(uid), re.IGNORECASE)]
    if len(matching) == 1:
        return groups[matching[0]]
    asked = f"{len(matching)} match the description {description!r}" if description else "no description is configured"
    raise CaseError(
        "ambiguous series",
        f"{path}: {listing} and {asked}; expected one series, its series_uid in the images table, or a "
        "description in the configuration that matches one alone",
    )


def _check_pixels(slices: Sequence[Slice]) -> None:
    for file, header in slices:
        found = header.get("PhotometricInterpretation"), header.get("SamplesPerPixel")
        if found != ("MONOCHROME2", 1):
            raise CaseError(
                "not a MONOCHROME2 image",
                f"{file}: {found[0]} with {found[1]} sample(s); expected MONOCHROME2 with 1",
            )


def _read_slices(slices: Sequence[Slice], where: str, kind: str) -> sitk.Image:
    first = slices[0].header
    for file, header in slices:
        absent = [name for name in PLANE if header.get(name) in (None, "")]
        if absent:
            raise CaseError("no slice geometry", f"{file}: no {', '.join(absent)}; expected all of {', '.join(PLANE)}")
        for name, tolerance in zip(PLANE[:4], (0, 0, 1e-4, 1e-3), strict=True):
            if not np.allclose(_floats(header[name].value), _floats(first[name].value), rtol=0, atol=tolerance):
                raise CaseError(
                    "differing slice geometry",
                    f"{where}: {name} is {header[name].value} in {file.name} and {first[name].value} in "
                    f"{slices[0].file.name}; expected one value in a series (a localizer among the slices?)",
                )
    if len(slices) < 2:
        raise CaseError("not a 3-D image", f"{where}: one slice; expected two or more")
    spacing, orientation = _floats(first.PixelSpacing), _floats(first.ImageOrientationPatient)
    check_spacing([*spacing], f"{where} PixelSpacing")
    if not np.allclose(orientation.reshape(2, 3) @ orientation.reshape(2, 3).T, np.eye(2), atol=1e-3):
        raise CaseError("sheared image axes", f"{where}: ImageOrientationPatient is {orientation.tolist()}")
    row, column = orientation[:3], orientation[3:]
    positions = np.stack([_floats(header.ImagePositionPatient) for _, header in slices])
    try:
        stack = stack_slices(positions, row, column, spacing.min(), [item.file.name for item in slices], where)
    except CaseError as error:
        differing = [name for name in REASONS_TO_DIFFER if len({str(s.header.get(name)) for s in slices}) > 1]
        told = f"; slices differ in {', '.join(differing)}" if differing else ""
        raise CaseError(error.reason, error.detail + told) from error
    array = np.empty((len(slices), int(first.Rows), int(first.Columns)), dtype=np.float32)
    for place, number in enumerate(stack.order):
        array[place] = _pixels(slices[number].file, kind, array.shape[1:])
    image = sitk.GetImageFromArray(array)
    image.SetOrigin(positions[stack.order[0]].tolist())
    image.SetSpacing([spacing[1], spacing[0], stack.spacing])  # PixelSpacing is (between rows, between columns)
    image.SetDirection(np.stack([row, column, stack.normal], axis=1).ravel().tolist())
    return image


def _floats(value: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.atleast_1d(np.asarray(value, dtype=float))


def _pixels(file: Path, kind: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """One slice after its own rescale slope and intercept."""
    with unreadable(file, kind):
        dataset = pydicom.dcmread(file)
        syntax = dataset.file_meta.TransferSyntaxUID
        if syntax.is_compressed and not get_decoder(syntax).is_available:
            values = sitk.GetArrayFromImage(sitk.ReadImage(str(file))).squeeze()  # GDCM knows JPEG Lossless
        else:
            values = apply_modality_lut(dataset.pixel_array, dataset)
        if values.shape != shape:
            raise ValueError(f"its pixels decode to {values.shape}; expected {shape} by its header")
    return values


def _read_frames(file: Path, kind: str) -> sitk.Image:
    """An enhanced (multi-frame) image whose frames are one regular stack."""
    import highdicom  # slow to import, and most images are not enhanced

    with unreadable(file, kind):
        volume = highdicom.imread(file).get_volume(dtype=np.float32, apply_real_world_transform=False)
        return volume_image(volume.array, volume)


def _flatten(header: pydicom.Dataset) -> dict[str, Any]:
    """The attributes of a multi-frame image, those of the functional groups included."""
    groups = [*header.get(NESTED[0], []), *header.get(NESTED[1], [])[:1]]
    nested = {element.keyword: element.value for group in groups for element in group.iterall()}
    return nested | {element.keyword: element.value for element in header}
