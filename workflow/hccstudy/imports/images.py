"""Images from files: NIfTI, NRRD and MetaImage, proven whole before they are believed.

ITK reads a truncated NIfTI file, a corrupt compressed MetaImage, a spacing of zero and NaN (as 0) without a
word, so the bytes and the header are checked here first, before ITK allocates what the header asks for.
"""

from __future__ import annotations

import gzip
import os
import re
import sqlite3
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import SimpleITK as sitk
from pydicom.datadict import keyword_for_tag
from pydicom.errors import BytesLengthException

from hccstudy.errors import CaseError, is_out_of_memory
from hccstudy.imports.geometry import Floats, check_grid, check_spacing
from hccstudy.privacy import told, without_quotes

ENDINGS = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
MOST_VOXELS = 2**30  # 4096 slices of 512 x 512: a header that asks for more is corrupt
CHUNK = 2**22
NIFTI_TYPES = {
    **{2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8"},
    **{256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"},
}
NIFTI_UNITS = {1: 1000, 3: 0.001}  # m and micrometers in mm
FARTHEST = 1e6  # mm: what is farther is no place, and infinity lets ITK run for ever
PLACES = (
    "TransformMatrix",
    "Rotation",
    "Orientation",
    "Offset",
    "Position",
    "Origin",
    "space directions",
    "space origin",
)
# An image of more bytes than these that packs better than that is a bomb: CT and MR pack 2 to 10 times.
LARGE, MOST_PACKED = 2**30, 200
EXACT_INTEGERS = 2**24  # in float32


def is_image_file(path: Path) -> bool:
    return path.name.lower().endswith(ENDINGS)


def stem(path: Path) -> Path:
    """The path without its (double) ending."""
    return path.with_name(re.sub(r"\.(nii\.gz|[^.]+)$", "", path.name, flags=re.IGNORECASE))


def companions(path: Path) -> list[Path]:
    """The other files that belong to an image file: detached voxels (.mhd, .nhdr) and a JSON sidecar."""
    found = [stem(path).with_name(stem(path).name + ".json")] if is_image_file(path) else []
    voxels = _detached(path, _header(path)) if path.suffix.lower() in {".mhd", ".nhdr"} and path.is_file() else None
    if voxels and _is_below(path.parent, voxels):
        found.append(voxels)
    return [item for item in found if _is_file(item)]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long is one of no file
        return False


def _detached(path: Path, header: str) -> Path | None:
    """The file that a MetaImage or NRRD header names for its voxels, None where they follow it."""
    data = _field(header, "ElementDataFile", "data file", "datafile")
    return None if data.upper() in ("", "LOCAL") else Path(os.path.normpath(path.parent.absolute() / data))


def _is_below(folder: Path, file: Path) -> bool:
    return file.is_relative_to(os.path.normpath(folder.absolute()))


def read_image_file(path: Path, kind: str) -> sitk.Image:
    """Read a 3-D image file; `kind` ("image" or "mask") names it in the reasons of CaseErrors."""
    with unreadable(path, kind):
        if path.name.lower().endswith((".nii", ".nii.gz")):
            voxels = _nifti_voxels(path, kind)
            reader = _open(path, kind)
            found = int(np.prod(reader.GetSize(), dtype=np.int64))
            if voxels.number not in (found, found * reader.GetNumberOfComponents()):
                raise ValueError(f"ITK finds {reader.GetSize()} voxels; expected {voxels.number} by its header")
            filled = _check_nifti(path, voxels)
        else:
            place = _text_header(path)
            reader = _open(path, kind)
            filled = _check_length(place, reader)
        size = tuple(reader.GetSize())
        if len(size) != 3 or reader.GetNumberOfComponents() != 1:
            raise CaseError(
                "4-D image" if len(size) == 4 else "not a 3-D image",
                f"{path}: {size} voxels of {reader.GetNumberOfComponents()} value(s); "
                "expected three dimensions and one value",
            )
        if not filled and kind == "mask":
            raise CaseError("empty mask", f"{path}: it holds no label, every voxel is 0; expected a region")
        if not filled:
            raise CaseError("constant image", f"{path}: every voxel is 0; expected an image")
        image = reader.Execute()
    check_grid(image, str(path))
    return image


def read_any_file(path: Path, kind: str) -> sitk.Image:
    """Read an image file of any format and dimension that SimpleITK knows. NIfTI, NRRD and MetaImage are proven whole, as in
    `read_image_file`, and intensities of all formats finite.
    """
    with unreadable(path, kind):
        nifti = path.name.lower().endswith((".nii", ".nii.gz"))
        voxels = _nifti_voxels(path, kind) if nifti else None
        if is_image_file(path) and not nifti:
            _check_length(_text_header(path), _open(path, kind))
        image = sitk.ReadImage(str(path))
        if voxels:
            _check_nifti(path, voxels, image)
        array = sitk.GetArrayViewFromImage(image)
        bad = 0 if array.dtype.kind in "iu" else int((~np.isfinite(array)).sum())
    if bad:
        raise CaseError("non-finite voxels", f"{path}: {bad} voxels are NaN or infinite; expected none")
    return image


def _open(path: Path, kind: str) -> sitk.ImageFileReader:
    """ITK's reader of a file after its header, which asks for no absurd size."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    check_size(tuple(reader.GetSize()), path, kind)
    return reader


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
        BytesLengthException,
        sqlite3.Error,  # highdicom's
    ) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the machine's trouble; process_batch knows what to do
        if is_out_of_memory(error):
            raise MemoryError(f"no memory for an {kind}") from error
        raise _broken(path, kind, error) from error
    except (TypeError, ValueError, struct.error) as error:
        raise _broken(path, kind, error) from error


def _broken(path: Path, kind: str, error: Exception) -> CaseError:
    if isinstance(error, AttributeError) and error.name:  # of a DICOM dataset
        return CaseError(f"truncated or unreadable {kind}", f"{path}: it has no {error.name}; expected one")
    if isinstance(error, KeyError) and isinstance(error.args[0], int):
        return CaseError(
            f"truncated or unreadable {kind}", f"{path}: it has no {keyword_for_tag(error.args[0])}; expected one"
        )
    lines = [line.strip() for line in without_quotes(error).splitlines() if line.strip()] or [type(error).__name__]
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
    low, high = array.min(), array.max()
    if low == high:
        raise CaseError("constant image", f"{where}: every voxel is {array.flat[0]}; expected an image")
    most = EXACT_INTEGERS if array.dtype.kind in "iu" else float(np.finfo(np.float32).max)
    if low < -most or high > most:
        raise CaseError("voxels out of range", f"{where}: values from {low} to {high}; expected {-most} to {most}")


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


def check_size(size: tuple[int, ...], path: Path | str, kind: str) -> None:
    """Refuse a number of voxels that no scan has, before they are allocated."""
    if not size or min(size) < 1 or np.prod(size, dtype=float) > MOST_VOXELS:
        raise CaseError(
            f"truncated or unreadable {kind}",
            f"{path}: its header states {size} voxels; expected 1 to {MOST_VOXELS}",
        )


class NiftiVoxels(NamedTuple):
    """What the header of a NIfTI file states of its voxels."""

    offset: int  # of the first voxel, in bytes of the unpacked file
    length: int  # bytes
    number: int
    floats: str  # numpy's name of their type where that is a floating point type, else ""


def _nifti_voxels(path: Path, kind: str) -> NiftiVoxels:
    """The header of a NIfTI-1 or NIfTI-2 file, refused where it contradicts itself or the size of its file.

    https://nifti.nimh.nih.gov/nifti-1 (nifti1.h) and nifti-2 (nifti2.h).
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
        magic, dimensions, (code, bits), scaling = head[344:348], field("8h", 40), field("2h", 70), field("2f", 112)
        steps, (offset,), (units,) = field("8f", 76), field("f", 108), field("b", 123)
        qform, sform, rotation, rows = *field("2h", 252), field("6f", 256), field("12f", 280)
    elif version == 540:
        magic, dimensions, (code, bits), scaling = head[4:8], field("8q", 16), field("2h", 12), field("2d", 176)
        steps, (offset,), (units,) = field("8d", 104), field("q", 168), field("i", 500)
        qform, sform, rotation, rows = *field("2i", 344), field("6d", 352), field("12d", 400)
    else:
        raise ValueError("no NIfTI header")
    if magic not in (b"n+1\0", b"n+2\0"):
        raise ValueError(
            "its magic is no n+1 or n+2; expected a NIfTI file with its voxels, no Analyze file or pair of files"
        )
    if not 0 <= offset <= CHUNK:
        raise ValueError(f"its header puts the voxels at byte {offset}")
    slope, intercept = scaling
    if not np.isfinite(scaling).all() or (slope == 0 and intercept != 0):  # slope 0: none of the two counts, says NIfTI
        raise ValueError(
            f"its header scales voxels by {slope} and adds {intercept}; expected finite numbers, or 0 and 0"
        )
    if bits < 8:
        raise ValueError(f"its header states {bits} bits a voxel, of datatype {code}; expected 8 and more")
    kept = np.dtype(NIFTI_TYPES.get(code, f"V{bits // 8}"))
    if bits != 8 * kept.itemsize:
        raise ValueError(f"its header states {bits} bits a voxel; expected {8 * kept.itemsize} by its datatype {code}")
    if not 1 <= dimensions[0] <= 7:  # by this ITK tells the order of bytes, and would read another header
        raise ValueError(f"its header states {dimensions[0]} dimensions; expected 1 to 7")
    size = dimensions[1 : dimensions[0] + 1]
    check_size(size, path, kind)
    check_spacing([step * NIFTI_UNITS.get(units & 7, 1) for step in steps[1 : 1 + min(len(size), 3)]], str(path))
    _check_place([*(rotation if qform > 0 else ()), *(rows if sform > 0 else ())])
    # Other codes (Talairach, MNI) are of a template: ITK takes them for a place in the scanner only if there is no other.
    if sform > 0 and (sform <= 2 or qform <= 0) and len(size) > 2:
        _check_sform(np.reshape(rows, (3, 4))[:, :3], np.asarray(steps[1:4]), str(path))
    length = int(np.prod(size, dtype=np.int64)) * kept.itemsize
    packed = path.stat().st_size
    if kind == "image" and zipped and length > max(LARGE, MOST_PACKED * packed):
        raise ValueError(
            f"its header states {length} bytes of voxels in a file of {packed}; expected at most {MOST_PACKED} times as many"
        )
    return NiftiVoxels(int(offset), length, length // kept.itemsize, order + kept.str[1:] if kept.kind == "f" else "")


def _check_place(numbers: Sequence[float]) -> None:
    if not all(abs(number) <= FARTHEST for number in numbers):
        raise ValueError(
            f"its header states the place {max(numbers, key=abs):g}; expected numbers up to {FARTHEST:g} mm"
        )


def _check_sform(matrix: Floats, pixdim: Floats, where: str) -> None:
    """ITK takes the nearest rotation, or the qform, where the sform (3 x 3, mm) is none that fits the spacing."""
    sides = np.linalg.norm(matrix, axis=0)
    angles = (matrix / np.maximum(sides, 1e-9)).T @ (matrix / np.maximum(sides, 1e-9))
    if not np.allclose(angles - np.diag(np.diag(angles)), 0, atol=0.01):
        raise CaseError(
            "sheared image axes", f"{where}: the axes of its sform are not at right angles: {matrix.tolist()}"
        )
    if not np.allclose(sides, pixdim, rtol=0.01):
        found, other = (", ".join(f"{step:.4g}" for step in steps) for steps in (sides, pixdim))
        detail = f"{where}: spacing is {found} mm by its sform and {other} mm by its pixdim; expected one spacing"
        raise CaseError("invalid voxel spacing", detail)


def _check_nifti(path: Path, voxels: NiftiVoxels, image: sitk.Image | None = None) -> bool:
    """Hold length and voxels of a NIfTI file against its header (ITK sets NaN to 0); whether any byte of them is not 0.

    With the `image` as read from it a compressed file is not decompressed again, if gzip's checksum is that of `image`.
    """
    zipped = path.name.lower().endswith(".gz")
    with gzip.open(path) if zipped else path.open("rb") as handle:
        start = handle.read(voxels.offset)
        if zipped and image is not None and _checksum_holds(path, start, image):
            return True
        length, bad, filled = len(start) - voxels.offset, 0, False
        # To the end, for gzip's checksum; not far beyond the stated length, for a bomb.
        while length <= voxels.length and (chunk := handle.read(CHUNK)):
            if voxels.floats:
                whole = len(chunk) // 8 * 8
                bad += int((~np.isfinite(np.frombuffer(chunk[:whole], voxels.floats))).sum())
            filled = filled or chunk.count(0) < len(chunk)
            length += len(chunk)
    if length != voxels.length:
        found = "more" if length > voxels.length else voxels.offset + length
        raise EOFError(f"{found} bytes of header and voxels; expected {voxels.offset + voxels.length} by its header")
    if bad:
        raise CaseError("non-finite voxels", f"{path}: {bad} voxels are NaN or infinite; expected none")
    return filled


def _checksum_holds(path: Path, start: bytes, image: sitk.Image) -> bool:
    """Whether gzip's checksum (RFC 1952) is that of the header and the voxels as read: then they are the file's."""
    with path.open("rb") as handle:
        handle.seek(-8, os.SEEK_END)
        checksum: int = struct.unpack("<I", handle.read(4))[0]
    voxels = np.ascontiguousarray(sitk.GetArrayViewFromImage(image))
    return zlib.crc32(voxels.data, zlib.crc32(start)) == checksum


def _header(path: Path) -> str:
    """The text header of a MetaImage or NRRD file, up to where its voxels begin if it has them."""
    with path.open("rb") as handle:
        head = handle.read(2**16)
    if head.startswith(b"NRRD"):
        end = re.search(rb"\r?\n\r?\n", head)
        return head[: end.end() if end else None].decode("latin-1")
    end = re.search(rb"^ElementDataFile[^\n]*\n?", head, re.MULTILINE)
    return head[: end.end() if end else 0].decode("latin-1")


def _field(header: str, *names: str) -> str:
    found = re.search(rf"^(?:{'|'.join(names)})\s*[=:]\s*(.*)$", header, re.MULTILINE | re.IGNORECASE)
    return found[1].strip() if found else ""


class TextVoxels(NamedTuple):
    """Where a MetaImage or NRRD file has its voxels, by its header."""

    file: Path
    start: int  # byte
    packing: str
    exact: bool  # nothing before or after them is to be skipped


def _text_header(path: Path) -> TextVoxels:
    """The header of a MetaImage or NRRD file, refused where it states no spacing in mm or voxels that are not at hand."""
    header = _header(path)
    if not header:
        raise ValueError("no MetaImage or NRRD header")
    stated = _field(header, "ElementSpacing", "ElementSize", "spacings").split()
    if stated:
        check_spacing([float(value) for value in stated], str(path))
    elif not _field(header, "space directions"):
        raise CaseError("invalid voxel spacing", f"{path}: its header states none; expected a spacing in mm")
    dimensions = _field(header, "NDims", "dimension")
    if stated and str(len(stated)) != dimensions:
        raise ValueError(f"{len(stated)} spacings for {told(dimensions)} dimensions; expected one for each")
    for name in PLACES:
        _check_place([float(text) for text in re.findall(r"[^\s,()]+", _field(header, name)) if text != "none"])
    units = set(_field(header, "space units", "units").replace('"', " ").split()) - {"mm", "millimeter", "none", "???"}
    if units:
        raise CaseError("invalid voxel spacing", f"{path}: its spacing is in another unit; expected mm")
    data = _field(header, "ElementDataFile", "data file", "datafile")
    if data.upper().startswith("LIST") or "%" in data:
        raise CaseError("unknown image format", f"{path}: its voxels are in a list of files; expected one file")
    detached = _detached(path, header)
    if detached and not _is_below(path.parent, detached):
        found = "its header names a file elsewhere for its voxels"
        raise CaseError("voxels in another folder", f"{path}: {found}; expected one beside it")
    if detached and not _is_file(detached):
        raise CaseError(
            "missing file", f"{path}: the file that its header names for its voxels is not there; expected it"
        )
    encoding = _field(header, "encoding").lower()
    if encoding in ("ascii", "text", "txt", "hex") or _field(header, "BinaryData").lower() == "false":
        raise CaseError("unknown image format", f"{path}: its voxels are written as text; expected raw or packed ones")
    packing = "zlib" if _field(header, "CompressedData").lower() == "true" else encoding
    exact = all(_field(header, name) in ("", "0") for name in ("HeaderSize", "byte skip", "line skip"))
    return TextVoxels(detached or path, 0 if detached else len(header.encode("latin-1")), packing, exact)


def _check_length(voxels: TextVoxels, reader: sitk.ImageFileReader) -> bool:
    """Prove that a file has the voxels that its header states, no more and no less; whether any byte of them is not 0."""
    one = sitk.Image([1] * reader.GetDimension(), reader.GetPixelID(), reader.GetNumberOfComponents())
    voxel = one.GetSizeOfPixelComponent() * one.GetNumberOfComponentsPerPixel()
    expected = int(np.prod(reader.GetSize(), dtype=np.int64)) * voxel
    length, filled = 0, False
    with voxels.file.open("rb") as handle:
        handle.seek(voxels.start)
        for chunk in _unpacked(handle, voxels.packing):
            length += len(chunk)
            filled = filled or chunk.count(0) < len(chunk)
            if length > expected and voxels.exact:
                break
    if length < expected or (length > expected and voxels.exact):
        found = "more" if length > expected else length
        raise EOFError(f"{found} bytes of voxels; expected {expected} by its header")
    return filled


def _unpacked(handle: BinaryIO, packing: str) -> Iterator[bytes]:
    """The bytes from here to the end, unpacked; never many at once, whatever they unpack to."""
    if packing in ("", "raw"):
        while chunk := handle.read(CHUNK):
            yield chunk
    elif packing in ("gzip", "gz"):
        with gzip.open(handle) as unzipped:
            while chunk := unzipped.read(CHUNK):
                yield chunk
    elif packing == "zlib":
        inflater = zlib.decompressobj()
        while chunk := handle.read(2**16):
            yield inflater.decompress(chunk)
        if not inflater.eof:
            raise EOFError("its compressed voxels end too soon")
    else:
        raise ValueError("its voxels are packed in another way; expected raw or gzip")
