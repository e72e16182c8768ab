"""Images from files: NIfTI, NRRD and MetaImage, proven whole before they are believed.

ITK reads a truncated NIfTI file, a corrupt compressed MetaImage, a spacing of zero and NaN (as 0) without a
word, so the bytes and the header are checked here first.
"""

from __future__ import annotations

import gzip
import os
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from hccstudy.errors import CaseError
from hccstudy.imports.geometry import check_grid, check_spacing

ENDINGS = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
MOST_VOXELS = 2**30  # 4096 slices of 512 x 512: a header that asks for more is corrupt
CHUNK = 2**22
NIFTI_FLOATS = {16: "f4", 64: "f8"}
NIFTI_UNITS = {1: 1000, 3: 0.001}  # m and micrometers in mm


def is_image_file(path: Path) -> bool:
    return path.name.lower().endswith(ENDINGS)


def stem(path: Path) -> Path:
    """The path without its (double) ending."""
    return path.with_name(re.sub(r"\.(nii\.gz|[^.]+)$", "", path.name, flags=re.IGNORECASE))


def companions(path: Path) -> list[Path]:
    """The other files that belong to an image file: detached voxels (.mhd, .nhdr) and a JSON sidecar."""
    found = [stem(path).with_name(stem(path).name + ".json")] if is_image_file(path) else []
    if path.suffix.lower() in {".mhd", ".nhdr"} and path.is_file():
        found.append(path.parent / _field(_header(path), "ElementDataFile", "data file", "datafile"))
    return [item for item in found if item.is_file()]


def read_image_file(path: Path, kind: str) -> sitk.Image:
    """Read a 3-D image file; `kind` ("image" or "mask") names it in the reasons of CaseErrors."""
    with unreadable(path, kind):
        if path.name.lower().endswith((".nii", ".nii.gz")):
            _check_nifti(path, kind)
        else:
            _check_text_header(path, kind)
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        size = tuple(reader.GetSize())
        if len(size) != 3 or reader.GetNumberOfComponents() != 1:
            raise CaseError(
                "4-D image" if len(size) == 4 else "not a 3-D image",
                f"{path}: {size} voxels of {reader.GetNumberOfComponents()} value(s); "
                "expected three dimensions and one value",
            )
        _check_size(size, path, kind)
        image = reader.Execute()
    check_grid(image, str(path))
    return image


def read_any_file(path: Path, kind: str) -> sitk.Image:
    """Read an image file of any format and dimension that SimpleITK knows. NIfTI, NRRD and MetaImage are proven whole, as in
    `read_image_file`, and intensities of all formats finite.
    """
    with unreadable(path, kind):
        image = sitk.ReadImage(str(path))
        if path.name.lower().endswith((".nii", ".nii.gz")):
            _check_nifti(path, kind, image)
        elif is_image_file(path):
            _check_text_header(path, kind)
        array = sitk.GetArrayViewFromImage(image)
        bad = 0 if array.dtype.kind in "iu" else int((~np.isfinite(array)).sum())
    if bad:
        raise CaseError("non-finite voxels", f"{path}: {bad} voxels are NaN or infinite; expected none")
    return image


@contextmanager
def unreadable(path: Path, kind: str) -> Iterator[None]:
    """Turn what libraries raise on a broken file into a CaseError that names the file."""
    try:
        yield
    except CaseError:
        raise
    except (
        OSError,
        EOFError,
        zlib.error,
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
    ) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the machine's trouble; process_batch knows what to do
        raise _broken(path, kind, error) from error
    except (TypeError, ValueError, struct.error) as error:
        raise _broken(path, kind, error) from error


def _broken(path: Path, kind: str, error: Exception) -> CaseError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if "orthonormal" in lines[-1]:
        return CaseError("sheared image axes", f"{path}: {lines[-1]}")
    if "change spacing" in lines[-1]:
        return CaseError("invalid voxel spacing", f"{path}: {lines[-1]}; expected above 0 mm")
    return CaseError(f"truncated or unreadable {kind}", f"{path}: {lines[-1]}")


def check_values(image: sitk.Image, where: str) -> None:
    """Refuse voxels that are no measurements: NaN, infinities, one value throughout."""
    array = sitk.GetArrayViewFromImage(image)
    bad = 0 if array.dtype.kind in "iu" else int((~np.isfinite(array)).sum())
    if bad:
        raise CaseError(
            "non-finite voxels", f"{where}: {bad} of {array.size} voxels are NaN or infinite; expected none"
        )
    if array.min() == array.max():
        raise CaseError("constant image", f"{where}: every voxel is {array.flat[0]}; expected an image")


def compact(image: sitk.Image) -> sitk.Image:
    """The image without any metadata, as int16 where that loses nothing (HU), else as float32."""
    array = sitk.GetArrayViewFromImage(image)
    limits = np.iinfo(np.int16)
    fits = array.min() >= limits.min and array.max() <= limits.max
    if fits and (array.dtype.kind in "iu" or (array == np.rint(array)).all()):
        values = array.astype(np.int16)
    else:
        values = array.astype(np.float32)
    result = sitk.GetImageFromArray(values)
    result.CopyInformation(image)
    return result


def _check_size(size: tuple[int, ...], path: Path, kind: str) -> None:
    if not 0 < np.prod(size, dtype=float) <= MOST_VOXELS:
        raise CaseError(
            f"truncated or unreadable {kind}",
            f"{path}: its header states {size} voxels; expected at most {MOST_VOXELS}",
        )


def _check_nifti(path: Path, kind: str, image: sitk.Image | None = None) -> None:
    """Hold length, spacing and voxels of a NIfTI-1 or NIfTI-2 file against its header (ITK sets NaN to 0).

    With the `image` as read from it a compressed file is not decompressed again, if gzip's checksum is that of `image`.
    """
    zipped = path.name.lower().endswith(".gz")
    with gzip.open(path) if zipped else path.open("rb") as handle:
        head = handle.read(540)
        if len(head) < 348:
            raise EOFError(f"{len(head)} bytes; expected a header of 348")
        order = "<" if head[:4] in (struct.pack("<i", 348), struct.pack("<i", 540)) else ">"

        def field(layout: str, place: int) -> tuple[Any, ...]:
            return struct.unpack_from(order + layout, head, place)

        version = field("i", 0)[0]
        if version == 348:
            dimensions, (code, bits) = field("8h", 40), field("2h", 70)
            steps, (offset,), (units,) = field("8f", 76), field("f", 108), field("b", 123)
        elif version == 540:
            dimensions, (code, bits) = field("8q", 16), field("2h", 12)
            steps, (offset,), (units,) = field("8d", 104), field("q", 168), field("i", 500)
        else:
            raise ValueError("no NIfTI header")
        if not 0 <= offset <= CHUNK:
            raise ValueError(f"its header puts the voxels at byte {offset}")
        size = dimensions[1 : dimensions[0] + 1]
        _check_size(size, path, kind)
        spacing = steps[1 : 1 + min(dimensions[0], 3)]
        check_spacing([step * NIFTI_UNITS.get(units & 7, 1) for step in spacing], str(path))
        expected = int(offset) + int(np.prod(size, dtype=np.int64)) * bits // 8
        handle.seek(0)
        start = handle.read(int(offset))
        if zipped and image is not None and _checksum_holds(path, start, image):
            return
        length, bad = len(start), 0
        # To the end, for gzip's checksum; not far beyond the stated length, for a bomb.
        while length <= expected + CHUNK and (chunk := handle.read(CHUNK)):
            if code in NIFTI_FLOATS:
                whole = len(chunk) // 8 * 8
                bad += int((~np.isfinite(np.frombuffer(chunk[:whole], order + NIFTI_FLOATS[code]))).sum())
            length += len(chunk)
    if not expected <= length <= expected + CHUNK:
        raise EOFError(f"{length} bytes of header and voxels; expected {expected} by its header")
    if bad:
        raise CaseError("non-finite voxels", f"{path}: {bad} voxels are NaN or infinite; expected none")


def _checksum_holds(path: Path, start: bytes, image: sitk.Image) -> bool:
    """Whether gzip's checksum (RFC 1952) is that of the header and the voxels as read: then they are the file's."""
    with path.open("rb") as handle:
        handle.seek(-8, os.SEEK_END)
        checksum: int = struct.unpack("<I", handle.read(4))[0]
    voxels = np.ascontiguousarray(sitk.GetArrayViewFromImage(image))
    return zlib.crc32(voxels.data, zlib.crc32(start)) == checksum


def _header(path: Path) -> str:
    """The text header of a MetaImage or NRRD file."""
    with path.open("rb") as handle:
        head = handle.read(2**16)
    if head.startswith(b"NRRD"):
        return re.split(rb"\r?\n\r?\n", head)[0].decode("latin-1")
    end = re.search(rb"ElementDataFile[^\n]*\n?", head)
    return head[: end.end() if end else 0].decode("latin-1")


def _field(header: str, *names: str) -> str:
    found = re.search(rf"^(?:{'|'.join(names)})\s*[=:]\s*(.*)$", header, re.MULTILINE | re.IGNORECASE)
    return found[1].strip() if found else ""


def _check_text_header(path: Path, kind: str) -> None:
    """Prove that a MetaImage or NRRD file states a spacing and that compressed MetaImage voxels are whole."""
    header = _header(path)
    if not header:
        raise ValueError("no MetaImage or NRRD header")
    stated = _field(header, "ElementSpacing", "ElementSize", "spacings")
    if stated:
        check_spacing([float(value) for value in stated.split()], str(path))
    elif not _field(header, "space directions"):
        raise CaseError("invalid voxel spacing", f"{path}: its header states none; expected a spacing in mm")
    data = _field(header, "ElementDataFile", "data file", "datafile")
    if data.upper().startswith("LIST") or "%" in data:
        raise CaseError("unknown image format", f"{path}: its voxels are in a list of files; expected one file")
    if _field(header, "CompressedData").lower() == "true":
        local = data.upper() == "LOCAL"
        with (path if local else path.parent / data).open("rb") as handle:
            handle.seek(len(header.encode("latin-1")) if local else 0)
            inflater, length = zlib.decompressobj(), 0
            while length <= 8 * MOST_VOXELS and (chunk := handle.read(CHUNK)):
                length += len(inflater.decompress(chunk))
        if not inflater.eof:
            raise EOFError("its compressed voxels end too soon")
