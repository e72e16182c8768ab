"""Bad images in files: NIfTI, NRRD and MetaImage, through the stage `imports`, with a good patient in the same batch."""

from __future__ import annotations

import gzip
import json
import os
import resource
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from bad_input import Answer, BadInput, Told
from imports.phantoms import case, cut_unsized, grid, images_row, labels, replace, run, scan, write, written

ROOM = 2**30  # bytes that a case may allocate: no header may ask for more before it is refused
VOXELS, MASK = sitk.GetArrayFromImage(scan()), sitk.GetArrayFromImage(labels())
PLACE = ("images table row 8: ", "column ")
Make = Callable[[Path], Any]


@contextmanager
def little_memory() -> Iterator[None]:
    """Whoever allocates more than ROOM gets a MemoryError (or its likes), and the case fails."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def imported(
    folder: Path,
    image: Any,
    mask: Any,
    *,
    right: np.ndarray = VOXELS,
    drawn: np.ndarray = MASK,
    chosen: dict[str, Any] | None = None,
    **cells: str,
) -> Told:
    """Import the bad patient BAD (row 8) beside a good one (row 3). Accepted images have the voxels `right` and the label
    map `drawn` (z, y, x, canonical axes)."""
    good = images_row(
        write(scan(seed=4), folder / "good" / "i.nii.gz"), write(labels(), folder / "good" / "m.nii.gz"), row="3"
    )
    bad = images_row(image, mask, row="8", **cells)
    with little_memory():
        result = run(folder, case("BAD", bad), case("GOOD", good), chosen=chosen)
    assert result.ledger.loc["GOOD", "status"] == "included"
    place = result.rows["patient"].tolist().index("GOOD")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(result.image(row=place)), sitk.GetArrayFromImage(scan(seed=4)))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(result.image("mask", place)), MASK)
    line = result.ledger.loc["BAD"]
    if line.status != "included":
        assert line.reason not in ("unexpected error", "unreadable file"), line.detail
        assert result.rows["patient"].tolist() == ["GOOD"]
        return Told("ledger", f"{line.reason}: {line.detail}")
    found = sitk.GetArrayFromImage(result.image(row=1 - place))
    np.testing.assert_allclose(found, right, rtol=1e-6)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(result.image("mask", 1 - place)), drawn)
    return Told("works")


def bad_image(door: str, name: str, make: Make, *says: str, right: np.ndarray | None = None, **more: Any) -> BadInput:
    """`make(folder)` gives the image, or image and mask; with `right` it has to work."""

    def go(folder: Path) -> Told:
        made = make(folder)
        image, mask = made if isinstance(made, tuple) else (made, write(labels(), folder / "m.nii.gz"))
        return imported(folder, image, mask, right=VOXELS if right is None else right, **more)

    answer: Answer = "ledger" if right is None else "works"
    return BadInput(door, name, go, answer, () if right is not None else (*PLACE, *says))


# ---------------------------------------------------------------- builders


def headed(path: Path, *fields: tuple[int, str, Any], image: sitk.Image | None = None, tail: bytes = b"") -> str:
    """A NIfTI-1 file with header fields (byte, struct layout, values) of its own."""
    raw = bytearray(gzip.decompress(Path(write(image or scan(), path.with_name("x.nii.gz"))).read_bytes()))
    for place, layout, value in fields:
        values = value if isinstance(value, tuple | list) else (value,)
        struct.pack_into(f"<{layout}", raw, place, *values)
    path.write_bytes(gzip.compress(bytes(raw) + tail) if path.suffix == ".gz" else bytes(raw) + tail)
    return str(path)


def nifti(*fields: tuple[int, str, Any], **options: Any) -> Make:
    return lambda folder: headed(folder / "i.nii.gz", *fields, **options)


def kept(ending: str, part: Callable[[int], int], compress: bool = False) -> Make:
    """A whole file of which the first part(length) bytes are left."""

    def make(folder: Path) -> str:
        raw = Path(write(scan(), folder / f"i{ending}", compress)).read_bytes()
        return written(folder / f"i{ending}", raw[: part(len(raw))])

    return make


def content(name: str, data: bytes) -> Make:
    return lambda folder: written(folder / name, data)


def image_of(build: Callable[[], sitk.Image], name: str = "i.nii.gz") -> Make:
    return lambda folder: write(build(), folder / name)


def text_header(name: str, old: str, new: str) -> Make:
    """An unpacked .nrrd or .mha, a word of whose header is another."""
    return lambda folder: replace(folder / name, old.encode(), new.encode())


def with_voxels(value: float, dtype: Any = np.float32) -> sitk.Image:
    array = VOXELS.astype(dtype)
    array[2, 3, 4] = value
    return grid(array)


def zeros(name: str, size: tuple[int, int, int], code: int = 2) -> Make:
    """A NIfTI of nothing but zeros in a small file: members of gzip, repeated."""

    def make(folder: Path) -> str:
        head = Path(headed(folder / "h.nii", (42, "3h", size), (70, "2h", (code, 8 * code // 2)))).read_bytes()[:352]
        count, member = int(np.prod(size)) * code // 2, gzip.compress(bytes(2**24), 9)
        whole, rest = divmod(count, 2**24)
        return written(folder / name, gzip.compress(head) + member * whole + gzip.compress(bytes(rest)))

    return make


def sform(columns: Any) -> tuple[tuple[int, str, Any], ...]:
    """Fields of a header with an sform alone: 3 rows of x, y, z, mm (RAS)."""
    return (252, "2h", (0, 1)), (280, "12f", list(np.ravel(columns).astype(float)))


PLAIN = np.array([[-0.8, 0, 0, 31.5], [0, -0.9, 0, -12.25], [0, 0, 2.5, -140.0]])  # of scan()
METERS = (268, "3f", (0.0315, -0.01225, -0.14))  # the place of its first voxel (RAS)
SHEARED, MIRRORED = PLAIN.copy(), PLAIN.copy()
SHEARED[1, 0] = 0.4
MIRRORED[0] *= -1


def mirrored(folder: Path) -> tuple[str, str]:
    """A left-handed grid, of the image and of its mask."""
    return (
        headed(folder / "i.nii.gz", *sform(MIRRORED)),
        headed(folder / "m.nii.gz", *sform(MIRRORED), image=labels()),
    )


def axes_apart(folder: Path) -> tuple[str, str]:
    return write(sitk.DICOMOrient(scan(), "PIR"), folder / "i.nii.gz"), write(
        sitk.DICOMOrient(labels(), "SAL"), folder / "m.nii.gz"
    )


def numpy_axes(folder: Path) -> tuple[str, str]:
    """A mask that lost its header and has its axes as numpy has them."""
    turned = sitk.GetImageFromArray(np.ascontiguousarray(MASK.transpose(2, 1, 0)))
    turned.SetSpacing(scan().GetSpacing())
    return write(scan(), folder / "i.nii.gz"), write(turned, folder / "m.nii.gz")


def named(name: str) -> Make:
    def make(folder: Path) -> tuple[str, str]:
        return write(scan(), folder / name / f"{name}.nii.gz"), write(labels(), folder / name / f"{name}.nrrd")

    return make


def linked(folder: Path) -> str:
    write(scan(), folder / "store" / "object 17.nii.gz")
    (folder / "i.nii.gz").symlink_to(folder / "store" / "object 17.nii.gz")
    return str(folder / "i.nii.gz")


def dangling(folder: Path) -> str:
    (folder / "i.nii.gz").symlink_to(folder / "gone.nii.gz")
    return str(folder / "i.nii.gz")


def pipe(folder: Path) -> str:
    os.mkfifo(folder / "i.nii.gz")
    return str(folder / "i.nii.gz")


def folder_named_nifti(folder: Path) -> str:
    write(scan(), folder / "i.nii.gz" / "inside.nii.gz")
    return str(folder / "i.nii.gz")


def sidecar(text: str) -> Make:
    def make(folder: Path) -> str:
        (folder / "i.json").write_text(text)
        return write(scan(), folder / "i.nii.gz")

    return make


def detached(folder: Path, where: str, *, ending: str = ".nhdr", name: str | None = None) -> str:
    """A header whose voxels lie at `where`, relative to it; it names them as `name`."""
    (folder / "study").mkdir(exist_ok=True)
    header = Path(write(scan(), folder / "study" / f"i{ending}", False))
    voxels = header.with_suffix(".raw")
    target = Path(os.path.normpath(header.parent / where))
    target.parent.mkdir(parents=True, exist_ok=True)
    voxels.rename(target)
    header.write_text(header.read_text().replace("i.raw", name or where))
    return str(header)


def nrrd(encoding: str, data: bytes) -> Make:
    """A .nrrd that says how its voxels are packed, and voxels as they are."""

    def make(folder: Path) -> str:
        path = Path(replace(folder / "i.nrrd", b"encoding: raw", f"encoding: {encoding}".encode()))
        head = path.read_bytes().split(b"\n\n")[0]
        return written(path, head + b"\n\n" + data)

    return make


def metaimage(data: Callable[[bytes], bytes], *lines: tuple[str, str]) -> Make:
    """A .mhd beside its .raw, after changes of both."""

    def make(folder: Path) -> str:
        path = Path(write(scan(), folder / "i.mhd", False))
        text = path.read_text()
        for old, new in lines:
            assert old in text
            text = text.replace(old, new)
        path.write_text(text)
        path.with_suffix(".raw").write_bytes(data(path.with_suffix(".raw").read_bytes()))
        return str(path)

    return make


def same(data: bytes) -> bytes:
    return data


def big_endian(folder: Path) -> str:
    path = Path(text_header("i.nrrd", "endian: little", "endian: big")(folder))
    head = path.read_bytes().split(b"\n\n")[0]
    return written(path, head + b"\n\n" + VOXELS.astype(">i2").tobytes())


# ---------------------------------------------------------------- cases

UNREADABLE = "truncated or unreadable image"
SPACING = "invalid voxel spacing"
RAW, PNG = VOXELS.tobytes(), b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(200)
JPEG, HTML = (
    b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(400),
    b"<!DOCTYPE html><html><body>401 Unauthorized</body></html>" * 9,
)

NIFTI = [
    ("empty file", content("i.nii.gz", b""), (UNREADABLE, "0 bytes; expected a header of 348")),
    ("gzip of nothing", content("i.nii.gz", gzip.compress(b"")), (UNREADABLE, "0 bytes; expected a header of 348")),
    ("cut in the header", kept(".nii", lambda n: 100), (UNREADABLE, "100 bytes; expected a header")),
    ("cut in the middle", kept(".nii", lambda n: n // 2), (UNREADABLE, "5936 bytes", "expected 11872")),
    ("cut by one byte", kept(".nii", lambda n: n - 1), (UNREADABLE, "11871 bytes", "expected 11872")),
    ("packed, cut in the middle", kept(".nii.gz", lambda n: n // 2, True), (UNREADABLE, "ended before")),
    ("packed, cut by one byte", kept(".nii.gz", lambda n: n - 1, True), (UNREADABLE, "ended before")),
    ("text", content("i.nii.gz", b"the scan is on the other disk\n" * 20), (UNREADABLE, "Not a gzipped file")),
    ("PNG", content("i.nii.gz", PNG), (UNREADABLE, "Not a gzipped file")),
    ("JPEG", content("i.nii", JPEG), (UNREADABLE, "no NIfTI header")),
    ("HTML of a failed download", content("i.nii.gz", HTML), (UNREADABLE, "Not a gzipped file")),
    ("packed but named .nii", content("i.nii", gzip.compress(bytes(999))), (UNREADABLE, "expected a header of 348")),
    (
        "30000 voxels a side",
        nifti((42, "3h", (30000,) * 3)),
        (UNREADABLE, "(30000, 30000, 30000)", "1 to 1073741824"),
    ),
    ("1000 voxels a side", nifti((42, "3h", (1000,) * 3)), (UNREADABLE, "2000000000 bytes", "200 times")),
    ("700 voxels a side", nifti((42, "3h", (700,) * 3)), (UNREADABLE, "11872 bytes", "expected 686000352")),
    ("2 GB of zeros in 2 MB", zeros("i.nii.gz", (1024, 1024, 1000), 4), (UNREADABLE, "2097152000 bytes", "200 times")),
    ("one slice less in the header", nifti((46, "h", 11)), (UNREADABLE, "more bytes", "expected 10912")),
    ("bytes after the voxels", nifti(tail=bytes(64)), (UNREADABLE, "more bytes", "expected 11872")),
    ("no dimensions", nifti((40, "h", 0)), (UNREADABLE, "states 0 dimensions; expected 1 to 7")),
    ("dimensions in another order of bytes", nifti((40, "h", 768)), (UNREADABLE, "states 768 dimensions")),
    ("negative dimensions", nifti((42, "2h", (-24, -20))), (UNREADABLE, "(-24, -20, 12)")),
    ("a dimension of zero", nifti((42, "h", 0)), (UNREADABLE, "(0, 20, 12)")),
    ("bits of another type", nifti((72, "h", 8)), (UNREADABLE, "8 bits", "expected 16 by its datatype 4")),
    ("no data type", nifti((70, "2h", (0, 0))), (UNREADABLE, "0 bits a voxel")),
    ("voxels beyond the file", nifti((108, "f", 3e6)), (UNREADABLE, "expected 3011520")),
    ("voxels at a negative byte", nifti((108, "f", -352.0)), (UNREADABLE, "byte -352")),
    ("Analyze", nifti((344, "4s", b"")), (UNREADABLE, "expected a NIfTI file")),
    ("header of a pair of files", nifti((344, "4s", b"ni1")), (UNREADABLE, "pair of files")),
    ("nothing but an intercept", nifti((112, "2f", (0, 5))), (UNREADABLE, "scales voxels by 0.0 and adds 5.0")),
    ("scaled by NaN", nifti((112, "2f", (np.nan, 0))), (UNREADABLE, "scales voxels by nan")),
    ("scaled by infinity", nifti((112, "2f", (np.inf, 0))), (UNREADABLE, "scales voxels by inf")),
    ("NaN voxel", image_of(lambda: with_voxels(np.nan), "i.nii"), ("non-finite voxels", "1 voxels are NaN")),
    ("infinite voxel", image_of(lambda: with_voxels(-np.inf)), ("non-finite voxels", "1 voxels are NaN or infinite")),
    ("beyond float32", image_of(lambda: with_voxels(1e300, np.float64)), ("voxels out of range", "1e+300", "3.40")),
    ("beyond exact integers", image_of(lambda: with_voxels(2**40, np.int64)), ("voxels out of range", "16777216")),
    ("qform at infinity", nifti((268, "f", np.inf)), (UNREADABLE, "place inf")),
    ("spacing zero", nifti((80, "f", 0.0)), (SPACING, "0, 0.9, 2.5 mm", "0.01 to 100")),
    ("spacing negative", nifti((84, "f", -0.9)), (SPACING, "0.8, -0.9, 2.5 mm")),
    ("spacing NaN", nifti((88, "f", np.nan)), (SPACING, "0.8, 0.9, nan mm")),
    ("spacing 5 m", nifti((88, "f", 5000.0)), (SPACING, "5000 mm")),
    (
        "two spacings",
        nifti(*sform(2 * PLAIN)),
        (SPACING, "1.6, 1.8, 5 mm by its sform", "0.8, 0.9, 2.5 mm by its pixdim"),
    ),
    ("sform sheared", nifti(*sform(SHEARED)), ("sheared image axes", "not at right angles")),
    ("sform sheared, qform not", nifti(*sform(SHEARED), (252, "h", 1)), ("sheared image axes", "sform")),
    ("sform singular", nifti(*sform(PLAIN[:, [0, 1, 1, 3]])), ("sheared image axes", "not at right angles")),
    ("sform of zeros", nifti(*sform(0 * PLAIN)), (SPACING, "0, 0, 0 mm by its sform")),
    ("sform of NaN", nifti(*sform(np.nan * PLAIN)), (UNREADABLE, "place nan; expected numbers up to")),
    (
        "sform and qform apart",
        nifti(*sform(MIRRORED), (252, "h", 1)),
        ("mask on another grid", "12.25, -140.00); the image"),
    ),
    ("four dimensions", image_of(lambda: sitk.JoinSeries([scan(), scan(seed=1)])), ("4-D image", "(24, 20, 12, 2)")),
    ("five dimensions", nifti((40, "6h", (5, 24, 20, 3, 2, 2))), ("not a 3-D image", "(24, 20, 3, 2, 2)")),
    ("two dimensions", image_of(lambda: scan()[:, :, 3]), ("not a 3-D image", "(24, 20)", "three dimensions")),
    ("one slice", image_of(lambda: scan()[:, :, 3:4]), ("not a 3-D image", "(24, 20, 1)", "two voxels")),
    ("one voxel", image_of(lambda: scan()[:1, :1, :1]), ("not a 3-D image", "(1, 1, 1)")),
    ("color", image_of(lambda: sitk.Compose(*[sitk.Cast(scan(), sitk.sitkUInt8)] * 3)), ("not a 3-D", "3 value(s)")),
    (
        "complex numbers",
        image_of(lambda: sitk.RealAndImaginaryToComplex(*[sitk.Cast(scan(), sitk.sitkFloat32)] * 2)),
        ("not a 3-D image", "2 value(s)"),
    ),
    ("constant", image_of(lambda: scan() * 0 + 7), ("constant image", "every voxel is 7")),
    ("zeros", image_of(lambda: scan() * 0), ("constant image", "every voxel is 0")),
    ("mask that lost its header and axes", numpy_axes, ("mask on another grid", "12x20x24", "24x20x12")),
    ("link to nothing", dangling, ("missing file", "no such image file")),
    ("named pipe", pipe, ("missing file", "no such image file")),
    ("folder", folder_named_nifti, ("no DICOM series", "none of 1 file(s) is a DICOM image")),
    ("other format", content("i.png", PNG), ("unknown image format", "expected a DICOM folder")),
    ("broken sidecar", sidecar("{"), ("unreadable sidecar", "not a JSON file of attributes")),
    ("sidecar that nests without end", sidecar("[" * 200000), ("unreadable sidecar", "not a JSON")),
    ("sidecar of another modality", sidecar('{"Modality": "MR"}'), ("wrong modality", "it is MR; expected CT")),
]

ODD_NAMES = ["肝癌 影像", 'O\'Brien "portal"', "$(touch x)", "a;b&c|d", "line\nbreak", "🫀🩻", "-rf", "%s{}", "x" * 200]
NIFTI_WORKS: list[tuple[str, Make, np.ndarray]] = [
    *((f"named {name[:12]!r}", named(name), VOXELS) for name in ODD_NAMES),
    ("scaled by zero, which means not at all", nifti((112, "2f", (0, 0))), VOXELS),
    ("scaled", nifti((112, "2f", (2, -10))), 2 * VOXELS - 10),
    ("a fourth dimension of one", nifti((40, "5h", (4, 24, 20, 12, 1))), VOXELS),
    (
        "spacing in m, said so",
        nifti((80, "3f", (8e-4, 9e-4, 2.5e-3)), (123, "b", 1), (252, "2h", (1, 0)), METERS),
        VOXELS,
    ),
    ("image and mask of other axis orders", axes_apart, VOXELS),
    ("64-bit integers", image_of(lambda: sitk.Cast(scan(), sitk.sitkInt64)), VOXELS),
    ("a link to a file", linked, VOXELS),
    ("sidecar of NaN and huge numbers", sidecar('{"KVP": NaN, "FlipAngle": 1' + "0" * 400 + "}"), VOXELS),
]

NRRD = [
    ("empty file", content("i.nrrd", b""), (UNREADABLE,)),
    ("text", content("i.nrrd", b"no NRRD at all"), (UNREADABLE,)),
    ("cut in the header", kept(".nrrd", lambda n: 60), (SPACING, "states none")),
    ("cut in the middle", kept(".nrrd", lambda n: n // 2), (UNREADABLE, "bytes of voxels; expected 11520")),
    ("cut by one byte", kept(".nrrd", lambda n: n - 1), (UNREADABLE, "11519 bytes of voxels; expected 11520")),
    ("packed, cut by one byte", kept(".nrrd", lambda n: n - 1, True), (UNREADABLE, "ended before")),
    ("bytes after the voxels", nrrd("raw", RAW + b"more"), (UNREADABLE, "more bytes", "expected 11520")),
    ("raw voxels called gzip", nrrd("gzip", RAW), (UNREADABLE, "Not a gzipped file")),
    ("gzip voxels called raw", nrrd("raw", gzip.compress(RAW)), (UNREADABLE, "expected 11520")),
    ("packed as bzip2", nrrd("bzip2", RAW), (UNREADABLE,)),
    ("voxels as text", nrrd("ascii", b"1 2 3"), ("unknown image format", "as text")),
    ("30000 voxels a side", text_header("i.nrrd", "24 20 12", "30000 30000 30000"), (UNREADABLE, "1 to 1073741824")),
    ("1000 voxels a side", text_header("i.nrrd", "24 20 12", "1000 1000 1000"), (UNREADABLE, "expected 2000000000")),
    ("2 GB of zeros in 2 MB", lambda folder: packed_zeros(folder), (UNREADABLE, "more bytes", "expected 11520")),
    ("another type", text_header("i.nrrd", "type: short", "type: double"), (UNREADABLE, "expected 46080")),
    ("sizes that are no numbers", text_header("i.nrrd", "sizes: 24 20 12", "sizes: 24 twenty 12"), (UNREADABLE,)),
    ("spacing zero", text_header("i.nrrd", "(0.80000000000000004,", "(0,"), (SPACING, "0 mm")),
    ("spacing NaN", text_header("i.nrrd", "(0.80000000000000004,", "(nan,"), ()),
    (
        "spacing in cm",
        text_header("i.nrrd", "encoding: raw", 'space units: "cm" "cm" "cm"\nencoding: raw'),
        (SPACING, "in another unit; expected mm"),
    ),
    ("sheared axes", text_header("i.nrrd", "(0.80000000000000004,0,0)", "(0.8,0.3,0)"), ("sheared image axes",)),
    ("NaN voxel", image_of(lambda: with_voxels(np.nan), "i.nrrd"), ("non-finite voxels", "1 of 5760")),
    ("voxels in no file", lambda p: detached(p, "i.raw", name="gone.raw"), ("missing file", "not there")),
    ("voxels above the folder", lambda p: detached(p, "../other.raw"), ("voxels in another folder", "beside it")),
    (
        "voxels at an absolute path",
        lambda p: detached(p, "../o.raw", name=str(p / "o.raw")),
        ("voxels in another folder", "beside it"),
    ),
    ("a list of files", lambda p: detached(p, "i.raw", name="LIST"), ()),
]
NRRD_WORKS: list[tuple[str, Make, np.ndarray]] = [
    ("voxels in a folder beside the header", lambda p: detached(p, "raw/i.raw"), VOXELS),
    ("big-endian", big_endian, VOXELS),
    ("packed as gz", nrrd("gz", gzip.compress(RAW)), VOXELS),
]

METAIMAGE = [
    ("no voxels beside the header", metaimage(same, ("i.raw", "gone.raw")), ("missing file", "not there")),
    ("header of nothing", content("i.mhd", b"NDims = 3\n"), (UNREADABLE,)),
    ("voxels cut by one byte", metaimage(lambda raw: raw[:-1]), (UNREADABLE, "11519 bytes", "expected 11520")),
    ("voxels of another study", metaimage(lambda raw: raw * 2), (UNREADABLE, "more bytes", "expected 11520")),
    (
        "an axis of 1e308, for which ITK runs for ever",
        metaimage(same, ("= 1 0 0 0", "= 1e308 0 0 0")),
        (UNREADABLE, "place 1e+308"),
    ),
    ("voxels in a file of 300 letters", metaimage(same, ("i.raw", "x" * 300)), ("missing file", "not there")),
    ("no voxels", metaimage(lambda raw: b""), (UNREADABLE, "0 bytes of voxels; expected 11520")),
    ("bytes called floats", metaimage(same, ("MET_SHORT", "MET_FLOAT")), (UNREADABLE, "expected 23040")),
    ("30000 voxels a side", metaimage(same, ("24 20 12", "30000 30000 30000")), (UNREADABLE, "1 to 1073741824")),
    ("1000 voxels a side", metaimage(same, ("24 20 12", "1000 1000 1000")), (UNREADABLE, "expected 2000000000")),
    ("packed zeros", lambda folder: packed_metaimage(folder), (UNREADABLE, "more bytes", "expected 11520")),
    ("packed, cut, of unstated length", lambda p: cut_unsized(p / "i.mha"), (UNREADABLE, "end too soon")),
    ("no spacing", metaimage(same, ("ElementSpacing", "ElementComment")), (SPACING, "its header states none")),
    (
        "spacing in words",
        metaimage(same, ("ElementSpacing = 0.8", "ElementSpacing = thin")),
        (UNREADABLE, "could not convert string to float"),
    ),
    (
        "two spacings for three axes",
        metaimage(same, ("0.80000000000000004 0.9", "0.8")),
        (UNREADABLE, "2 spacings for 3 dimensions"),
    ),
    ("sheared axes", metaimage(same, ("= 1 0 0 0 1", "= 1 0.3 0 0 1")), ("sheared image axes",)),
    ("voxels above the folder", lambda p: detached(p, "../o.raw", ending=".mhd"), ("voxels in another folder",)),
    (
        "voxels at an absolute path",
        lambda p: detached(p, "../o.raw", ending=".mhd", name=str(p / "o.raw")),
        ("voxels in another folder",),
    ),
    ("voxels of the password file", metaimage(same, ("i.raw", "/etc/passwd")), ("voxels in another folder",)),
    ("a list of files", metaimage(same, ("i.raw", "LIST\nslice1.raw")), ("unknown image format", "list of files")),
    ("voxels as text", metaimage(same, ("BinaryData = True", "BinaryData = False")), ("unknown image format", "text")),
]


def packed_zeros(folder: Path) -> str:
    return nrrd("gzip", gzip.compress(bytes(2**24), 9) * 128)(folder)


def packed_metaimage(folder: Path) -> str:
    path = Path(write(scan(), folder / "i.mhd", False))
    deflater = zlib.compressobj(9)
    data = b"".join(deflater.compress(bytes(2**24)) for _ in range(4)) + deflater.flush()
    path.with_suffix(".raw").write_bytes(data)
    path.write_text(path.read_text().replace("CompressedData = False", "CompressedData = True"))
    return str(path)


def sidecar_values(folder: Path) -> Told:
    """What a sidecar states as NaN is unknown, and no number."""
    told = imported(folder, sidecar(json.dumps({"KVP": float("nan")}))(folder), write(labels(), folder / "m.nii.gz"))
    lines = (folder / "out" / "acquisition.tsv").read_text().splitlines()
    assert "nan" not in lines[1].lower().split("\t")
    return told


CASES = [
    *(bad_image("NIfTI", name, make, *says) for name, make, says in NIFTI),
    *(bad_image("NIfTI", name, make, right=right) for name, make, right in NIFTI_WORKS),
    bad_image("NIfTI", "left-handed axes", mirrored, right=VOXELS[:, :, ::-1], drawn=MASK[:, :, ::-1]),
    BadInput("NIfTI", "sidecar of NaN, and the table of acquisitions", sidecar_values, "works"),
    *(bad_image("NRRD", name, make, *says) for name, make, says in NRRD),
    *(bad_image("NRRD", name, make, right=right) for name, make, right in NRRD_WORKS),
    *(bad_image("MetaImage", name, make, *says) for name, make, says in METAIMAGE),
]
