"""DICOM series: which files of a folder are the series, and the regular stack that they must be."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.errors import InvalidDicomError
from pydicom.pixels import apply_modality_lut, get_decoder
from pydicom.pixels.utils import get_expected_length

from hccstudy.errors import CaseError
from hccstudy.imports.acquisition import KEYWORDS, Header
from hccstudy.imports.geometry import check_grid, check_spacing, stack_slices
from hccstudy.imports.images import check_size, unreadable
from hccstudy.imports.suv import KEYWORDS as SUV_KEYWORDS
from hccstudy.privacy import told

if TYPE_CHECKING:
    import highdicom

SELECTION = ("SeriesInstanceUID", "SeriesDescription", "Modality", "FrameOfReferenceUID", "NumberOfFrames")
PLANE = {"Rows": 1, "Columns": 1, "PixelSpacing": 2, "ImageOrientationPatient": 6, "ImagePositionPatient": 3}
# What slices of one series share (with an empty one anything goes), though tags of the plane may not show it.
SHARED = ("PatientID", "Modality", "FrameOfReferenceUID")
RESCALE = ("RescaleSlope", "RescaleIntercept")
LUT = "ModalityLUTSequence"
MOST_SLICES = 10000  # 2 m in steps of 0.2 mm
RESCALED = ("CT", "PT")  # modalities whose stored values mean nothing without
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


class BoundedReader(io.BufferedReader):
    """A file that allocates no more than it has left, whatever length a broken header asks for."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > 2**16:
            size = min(size, max(os.fstat(self.fileno()).st_size - self.tell(), 0))
        return super().read(size)


class Slice(NamedTuple):
    file: Path
    header: pydicom.Dataset


def read_series(path: Path, series_uid: str, description: str, kind: str = "image") -> Series:
    """The series of a folder (or file) that `series_uid`, else `description` (a regular expression), chooses.

    One series alone needs no choice. Values are after the modality transform (HU, Bq/ml), slice by slice.
    """
    groups = scan_series(path, kind)
    slices = _choose(groups, series_uid, description, path)
    _check_shared([item for group in groups.values() for item in group] if not series_uid else slices, SHARED[:1])
    first = slices[0].header
    where = f"{path} (series of {len(slices)} file(s))"
    _check_pixels(slices)
    if len(slices) == 1 and int(first.get("NumberOfFrames") or 1) > 1:
        image = _read_frames(slices[0].file, kind)
        headers: list[Header] = [_flatten(first)]
    else:
        image = _read_slices(slices, where, kind)
        headers = [item.header for item in slices]
    _check_shared(slices, SHARED[1:])
    check_grid(image, where)
    return Series(image, headers, str(first.get("Modality") or ""), str(first.get("FrameOfReferenceUID") or ""))


def read_dicom(file: Path, **options: Any) -> pydicom.Dataset:
    """`pydicom.dcmread` within the memory that the file takes."""
    with BoundedReader(io.FileIO(file)) as handle:
        return pydicom.dcmread(handle, **options)


def volume_image(array: np.ndarray[Any, Any], volume: highdicom.Volume) -> sitk.Image:
    """An array (slices, rows, columns) on the grid of a highdicom volume as an image."""
    image = sitk.GetImageFromArray(array)
    image.SetOrigin([float(value) for value in volume.position])
    image.SetSpacing([float(value) for value in volume.spacing[::-1]])
    image.SetDirection(np.asarray(volume.direction, dtype=float)[:, ::-1].ravel().tolist())
    return image


def scan_series(path: Path, kind: str) -> dict[str, list[Slice]]:
    """All image headers below `path` by SeriesInstanceUID; what is no DICOM image is passed over."""
    below = sorted(path.rglob("*")) if path.is_dir() else [path]
    files = [item for item in below if item.is_file()]
    lost = sum(item.is_symlink() and not item.is_file() for item in below)
    if lost:
        found = f"{lost} of {len(below)} files below it are links to no file or to a folder"
        raise CaseError("missing file", f"{path}: {found}; expected the files themselves or links to them")
    tags = (*SELECTION, *PLANE, *PIXELS, *NESTED, *REASONS_TO_DIFFER, *SHARED, *RESCALE, LUT, *KEYWORDS, *SUV_KEYWORDS)
    groups: dict[str, list[Slice]] = {}
    for file in files:
        if not file.stat().st_size:
            raise CaseError(f"truncated or unreadable {kind}", f"{file}: the file is empty")
        try:
            with unreadable(file, kind):
                header = read_dicom(file, stop_before_pixels=True, specific_tags=list(dict.fromkeys(tags)))
                list(header.iterall())  # values are parsed where they are looked at: here, where the file can be named
                name = pydicom.uid.UID(str(header.file_meta.get("MediaStorageSOPClassUID", ""))).name
        except InvalidDicomError:
            continue
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
    if series_uid in groups:
        return groups[series_uid]
    if len(groups) == 1 and not series_uid:
        return next(iter(groups.values()))
    # UIDs and descriptions may tell who the patient is: `hccstudy look` shows them, nothing keeps them.
    counts = ", ".join(f"series {number}: {len(files)} slices" for number, files in enumerate(groups.values(), start=1))
    listing = f"found {len(groups)} series ({counts}; `hccstudy look` on it shows their UIDs and descriptions)"
    if series_uid:
        raise CaseError(
            "series not found",
            f"{path}: none has the row's series_uid; {listing}; expected the series_uid of one of them",
        )
    matching = [uid for uid in groups if description and re.search(description, described(groups[uid]), re.IGNORECASE)]
    if len(matching) == 1:
        return groups[matching[0]]
    asked = f"{len(matching)} match the description {description!r}" if description else "no description is configured"
    raise CaseError(
        "ambiguous series",
        f"{path}: {listing} and {asked}; expected one series, its series_uid in the images table, or a "
        "description in the configuration that matches one alone",
    )


def described(slices: Sequence[Slice]) -> str:
    return str(slices[0].header.get("SeriesDescription") or "")


def _check_pixels(slices: Sequence[Slice]) -> None:
    for file, header in slices:
        found = header.get("PhotometricInterpretation"), header.get("SamplesPerPixel")
        if found != ("MONOCHROME2", 1):
            raise CaseError(
                "not a MONOCHROME2 image",
                f"{file}: {_kind(str(found[0]))} with {found[1]} sample(s); expected MONOCHROME2 with 1",
            )


def _check_shared(slices: Sequence[Slice], names: Sequence[str]) -> None:
    for name in names:
        stated = [(file, value) for file, header in slices if (value := header.get(name))]
        other = next((file for file, value in stated if value != stated[0][1]), None)
        if other:
            reason = "several patients in a series" if name == "PatientID" else f"several values of {name}"
            raise CaseError(
                reason, f"{stated[0][0]} and {other} differ in {name}; expected one (a folder of mixed exports?)"
            )


def _kind(photometric: str) -> str:
    known = re.fullmatch(r"MONOCHROME[12]|RGB|PALETTE COLOR|YBR_[A-Z0-9_]+", photometric)
    return photometric if known else "another kind of picture"


def _check_rescale(slices: Sequence[Slice], kind: str) -> None:
    """Refuse slices whose stored values cannot be told from HU (DICOM PS3.3 C.11.1.1, C.8.2.1 for CT)."""
    modality = slices[0].header.get("Modality")
    some = any(header.get(name) is not None for _, header in slices for name in RESCALE)
    for file, header in slices:
        found = [header.get(name) for name in RESCALE]
        needed = some or (kind == "image" and modality in RESCALED)
        if needed and None in found and LUT not in header:
            names = " and ".join(name for name, value in zip(RESCALE, found, strict=True) if value is None)
            raise CaseError("no rescale", f"{file}: {names} missing; expected both in every slice")
        if found != [None, None] and LUT not in header and (not _are_numbers(found, 2) or float(found[0]) == 0):
            raise CaseError(
                "no rescale",
                f"{file}: RescaleSlope is {told(found[0])}, RescaleIntercept {told(found[1])}; expected a "
                "slope other than 0 and finite numbers",
            )


def _read_slices(slices: Sequence[Slice], where: str, kind: str) -> sitk.Image:
    first = slices[0].header
    for file, header in slices:
        absent = [name for name in PLANE if header.get(name) in (None, "")]
        if absent:
            raise CaseError("no slice geometry", f"{file}: no {', '.join(absent)}; expected all of {', '.join(PLANE)}")
        odd = [name for name, count in PLANE.items() if not _are_numbers(header.get(name), count)]
        if odd:
            raise CaseError(
                "no slice geometry", f"{file}: {odd[0]} is not {PLANE[odd[0]]} finite number(s); expected that"
            )
        for name, tolerance in zip(PLANE, (0, 0, 1e-4, 1e-3), strict=False):
            if not np.allclose(_floats(header[name].value), _floats(first[name].value), rtol=0, atol=tolerance):
                raise CaseError(
                    "differing slice geometry",
                    f"{where}: {name} is {header[name].value} in {file} and {first[name].value} in "
                    f"{slices[0].file}; expected one value in a series (a localizer among the slices?)",
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
        stack = stack_slices(positions, row, column, spacing.min(), [str(item.file) for item in slices], where)
    except CaseError as error:
        differing = [name for name in REASONS_TO_DIFFER if len({str(s.header.get(name)) for s in slices}) > 1]
        hint = f"; slices differ in {', '.join(differing)}" if differing else ""
        raise CaseError(error.reason, error.detail + hint) from error
    _check_rescale(slices, kind)
    shape = int(first.Rows), int(first.Columns)
    check_size((*shape[::-1], len(slices)), where, kind)
    lowest = _pixels(slices[stack.order[0]].file, kind, shape)  # proves the shape before all slices get their memory
    array = np.empty((len(slices), *lowest.shape), dtype=np.float32)
    array[0] = lowest
    for place, number in enumerate(stack.order[1:], start=1):
        array[place] = _pixels(slices[number].file, kind, shape)
    image = sitk.GetImageFromArray(array)
    image.SetOrigin(positions[stack.order[0]].tolist())
    image.SetSpacing([spacing[1], spacing[0], stack.spacing])  # PixelSpacing is (between rows, between columns)
    image.SetDirection(np.stack([row, column, stack.normal], axis=1).ravel().tolist())
    return image


def _floats(value: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.atleast_1d(np.asarray(value, dtype=float))


def _are_numbers(value: Any, count: int) -> bool:
    try:
        found = _floats(value)
    except (TypeError, ValueError):
        return False
    return found.shape == (count,) and bool(np.isfinite(found).all())


def _pixels(file: Path, kind: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """One slice after its own rescale slope and intercept."""
    with unreadable(file, kind):
        dataset = read_dicom(file)
        syntax = dataset.file_meta.TransferSyntaxUID
        if not syntax.is_transfer_syntax:
            raise ValueError("its transfer syntax is unknown; expected one of DICOM PS3.5")
        if syntax.is_compressed and not get_decoder(syntax).is_available:
            values = sitk.GetArrayFromImage(sitk.ReadImage(str(file))).squeeze()  # GDCM knows JPEG Lossless
        else:
            check_length(dataset)
            if not syntax.is_encapsulated:
                _check_bits(dataset)
            values = apply_modality_lut(_decoded(dataset), dataset)
        if values.shape != shape:
            raise ValueError(f"its pixels decode to {values.shape}; expected {shape} by its header")
    return values


def _decoded(dataset: pydicom.Dataset) -> np.ndarray[Any, Any]:
    try:
        return dataset.pixel_array
    except RuntimeError as error:  # of the decoders, each with words of its own
        name = dataset.file_meta.TransferSyntaxUID.name
        raise ValueError(f"its pixels cannot be decoded; expected {name}") from error


def check_length(dataset: pydicom.Dataset) -> None:
    """Hold native pixels and frames against their header: pydicom and highdicom cut what is too long without a word."""
    if not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        found, expected = len(dataset.PixelData), get_expected_length(dataset)
        if found != expected + expected % 2:
            raise ValueError(f"{found} bytes of pixels; expected {expected + expected % 2} by its header")
    groups, frames = dataset.get(NESTED[1]), int(dataset.get("NumberOfFrames") or 1)
    if groups is not None and len(groups) != frames:
        raise ValueError(f"{len(groups)} items of {NESTED[1]}; expected one for each of {frames} frames")


def check_stack(dataset: Any) -> None:
    """Refuse a highdicom image whose frames are so far apart that all slices between them would fill the memory."""
    geometry = dataset.get_volume_geometry(allow_missing_positions=True)
    if geometry is not None and geometry.spatial_shape[0] > MOST_SLICES:
        raise ValueError(f"its frames span {geometry.spatial_shape[0]} slices; expected at most {MOST_SLICES}")


def _check_bits(dataset: pydicom.Dataset) -> None:
    """Hold native pixels against BitsStored: pydicom drops higher bits without a word."""
    if dataset.BitsAllocated not in (8, 16, 32):
        raise ValueError(f"BitsAllocated is {dataset.BitsAllocated}; expected 8, 16 or 32")
    order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
    sign = "i" if dataset.PixelRepresentation else "u"
    stored = np.frombuffer(dataset.PixelData, f"{order}{sign}{dataset.BitsAllocated // 8}", dataset.pixel_array.size)
    if (stored != dataset.pixel_array.ravel()).any():
        raise ValueError(
            f"pixels from {stored.min()} to {stored.max()}; expected what {dataset.BitsStored} bits (BitsStored) hold"
        )


def _read_frames(file: Path, kind: str) -> sitk.Image:
    """An enhanced (multi-frame) image whose frames are one regular stack."""
    import highdicom  # slow to import, and most images are not enhanced

    with unreadable(file, kind):
        dataset = read_dicom(file)
        check_length(dataset)
        volume = highdicom.Image.from_dataset(dataset, copy=False).get_volume(
            dtype=np.float32, apply_real_world_transform=False
        )
        return volume_image(volume.array, volume)


def _flatten(header: pydicom.Dataset) -> dict[str, Any]:
    """The attributes of a multi-frame image, those of the functional groups included."""
    groups = [*header.get(NESTED[0], []), *header.get(NESTED[1], [])[:1]]
    nested = {element.keyword: element.value for group in groups for element in group.iterall()}
    return nested | {element.keyword: element.value for element in header}
