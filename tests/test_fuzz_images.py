"""Files that nobody wrote: mutated images, DICOM series and masks through the reading doors.

Each is refused by a CaseError that says something, or accepted with finite voxels of the size that its header states. Never
another exception, a hang, a crash of a library or much memory: the cases run in a process of their own with limits.
HCCSTUDY_FUZZ=8000 runs so many cases instead of 400, `python tests/test_fuzz_images.py FOLDER FIRST COUNT` some of them.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.random import Generator
from pydicom.uid import JPEGLosslessSV1, RLELossless

from hccstudy.errors import CaseError
from hccstudy.imports.dicom import read_series
from hccstudy.imports.images import check_values, read_image_file
from hccstudy.imports.masks import label_map
from imports.phantoms import FRAME, plain, scan, segments, tube, write, write_dicom, write_rtstruct, write_seg
from imports.phantoms import labels as label_image

CASES = int(os.environ.get("HCCSTUDY_FUZZ", "400"))
ROOM = 2 * 2**30  # bytes of address space beyond those of the libraries
PATIENCE = 20  # seconds a case
EXTREMES = [b"\0", b"\xff", b"\x7f", b"\x80", b"\x01"]
NUMBERS = [b"0", b"-1", b"nan", b"inf", b"1e308", b"99999999999", b"2147483648", b"", b"x", b"0.0001", b"1 1"]
LABELS = {"tumor": 1, "liver": 2, "lesions": 3}

# ---------------------------------------------------------------- mutations


def flip(data: bytearray, rng: Generator) -> None:
    for place in rng.integers(0, len(data), rng.integers(1, 9)):
        data[place] ^= 1 << int(rng.integers(8))


def flip_in_header(data: bytearray, rng: Generator) -> None:
    for place in rng.integers(0, min(len(data), 400), rng.integers(1, 5)):
        data[place] = int(rng.integers(256))


def truncate(data: bytearray, rng: Generator) -> None:
    del data[int(rng.integers(0, len(data))) :]


def cut_out(data: bytearray, rng: Generator) -> None:
    first = int(rng.integers(0, len(data)))
    del data[first : first + int(rng.integers(1, 200))]


def repeat(data: bytearray, rng: Generator) -> None:
    first = int(rng.integers(0, len(data)))
    data[first:first] = data[first : first + int(rng.integers(1, 200))]


def extreme(data: bytearray, rng: Generator) -> None:
    """A field of the header becomes 0, -1, the largest or smallest integer, NaN or a huge number."""
    size = int(rng.choice([2, 4, 8]))
    place = int(rng.integers(0, max(min(len(data), 1500) - size, 1)))
    value = [byte * size for byte in EXTREMES] + [
        struct.pack("<f", np.nan) * 2,
        struct.pack("<d", 1e300),
        b"\x10\x27\0\0",
    ]
    data[place : place + size] = value[int(rng.integers(len(value)))][:size]


def another_number(data: bytearray, rng: Generator) -> None:
    """A number of a text header, or of a DICOM text, becomes another one."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", bytes(data[:3000])))
    if found:
        chosen = found[int(rng.integers(len(found)))]
        data[chosen.start() : chosen.end()] = NUMBERS[int(rng.integers(len(NUMBERS)))]


def blank(data: bytearray, rng: Generator) -> None:
    first = int(rng.integers(0, len(data)))
    size = min(int(rng.integers(1, 300)), len(data) - first)
    data[first : first + size] = bytes(size)


def splice(data: bytearray, rng: Generator) -> None:
    """Two parts of the file change places."""
    first, second = sorted(int(place) for place in rng.integers(0, len(data), 2))
    data[:] = data[second:] + data[first:second] + data[:first]


MUTATIONS = [
    flip,
    flip_in_header,
    truncate,
    cut_out,
    repeat,
    extreme,
    extreme,
    another_number,
    another_number,
    blank,
    splice,
]


def mutated(path: Path, rng: Generator) -> str:
    """Change a file once to three times; one in three packed files within its packing. The names of what was done."""
    packed = path.name.endswith(".gz") and rng.random() < 0.67
    data = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    done = [MUTATIONS[int(place)] for place in rng.integers(0, len(MUTATIONS), rng.integers(1, 4))]
    for mutate in done:
        if data:
            mutate(data, rng)
    path.write_bytes(gzip.compress(bytes(data), 1) if packed else bytes(data))
    return f"{path.name}: {', '.join(mutate.__name__ for mutate in done)}"


# ---------------------------------------------------------------- doors

SMALL = (slice(None), slice(None), slice(0, 5))


def stated_size(path: Path) -> list[int]:
    """The size in the header of an image file, read by hand."""
    data = path.read_bytes()
    if path.name.endswith((".nii", ".nii.gz")):
        head = gzip.decompress(data) if path.suffix == ".gz" else data
        order = "<" if head[:1] == b"\x5c" else ">"
        return list(struct.unpack(f"{order}3h", head[42:48]))
    found = re.search(rb"^(?:DimSize\s*=|sizes:)\s*(.*)$", data, re.MULTILINE)
    assert found
    return [int(float(value)) for value in found[1].split()]


def read_file(path: Path) -> None:
    image = read_image_file(path, "image")
    check_values(image, str(path))
    assert list(image.GetSize()) == stated_size(path)[:3], (image.GetSize(), stated_size(path))


def read_folder(path: Path) -> None:
    image = read_series(path, "", "").image
    check_values(image, str(path))
    assert min(image.GetSize()) > 1


def read_mask(path: Path, image: sitk.Image) -> None:
    row = {"mask": str(path), "label": "2" if path.name == "seg.dcm" else "", "liver_mask": "", "lesions_mask": ""}
    found = label_map(image, FRAME, row, LABELS)
    assert found.shape == sitk.GetArrayViewFromImage(image).shape and 0 < (found == 1).sum() < found.size


def read_small_mask(path: Path) -> None:
    read_mask(path, scan()[SMALL])


def read_contours(path: Path) -> None:
    read_mask(path, plain())


def packed(folder: Path, files: list[Path]) -> None:
    """The series once more, packed as RLE (pydicom unpacks it) and as JPEG Lossless (GDCM does)."""
    for name in ("rle", "jpeg"):
        (folder / name).mkdir()
        for file in files:
            data = pydicom.dcmread(file)
            if name == "rle":
                data.compress(RLELossless, generate_instance_uid=False)
            else:
                pack_as_jpeg(data, file, folder / "jpeg.dcm")
            data.save_as(folder / name / file.name)


def pack_as_jpeg(data: pydicom.Dataset, file: Path, scratch: Path) -> None:
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(scratch))
    writer.SetImageIO("GDCMImageIO")
    writer.SetUseCompression(True)
    writer.SetCompressor("JPEG")
    writer.Execute(sitk.Cast(sitk.ReadImage(str(file)), sitk.sitkInt16))
    written = pydicom.dcmread(scratch)
    assert written.file_meta.TransferSyntaxUID == JPEGLosslessSV1
    data.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    data.PixelData = written.PixelData
    data["PixelData"].is_undefined_length = True
    data.RescaleIntercept, data.RescaleSlope = written.get("RescaleIntercept", 0), written.get("RescaleSlope", 1)


def build(folder: Path) -> None:
    """The whole files that are mutated: small, and of every kind."""
    for ending, compress in ((".nii", False), (".nii.gz", True), (".nrrd", False), (".mha", False), (".mhd", False)):
        write(scan()[SMALL], folder / f"i{ending}", compress)
    write(scan()[SMALL], folder / "packed.nrrd")
    write(scan()[SMALL], folder / "packed.mha")
    write(sitk.Cast(scan()[SMALL], sitk.sitkFloat32), folder / "float.nii", False)
    write(label_image()[SMALL], folder / "mask.nii.gz")
    files = write_dicom(scan()[SMALL], folder / "series", FrameOfReferenceUID=FRAME, SliceThickness="2.5")
    packed(folder, files)
    write_seg(folder / "seg.dcm", files, {name: segments()[name][:5] for name in ("Liver", "HCC")})
    write_rtstruct(folder / "rt.dcm", {"GTV": tube(plain())}, FRAME)


DOORS: list[tuple[str, Callable[[Path], None]]] = [
    *((name, read_file) for name in ("i.nii", "i.nii.gz", "float.nii", "i.nrrd", "packed.nrrd", "i.mha", "i.mhd")),
    ("packed.mha", read_file),
    ("mask.nii.gz", read_small_mask),
    *((name, read_folder) for name in ("series", "series", "rle", "jpeg")),
    *[("seg.dcm", read_small_mask)] * 2,
    *[("rt.dcm", read_contours)] * 2,
]


def one_case(whole: Path, scratch: Path, number: int) -> tuple[str, str, str]:
    """Mutate one file: its name, what was done, and what came of it ("" where accepted)."""
    rng = np.random.default_rng([20261123, number])
    name, door = DOORS[number % len(DOORS)]
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(whole, scratch)
    place = scratch / name
    file = sorted(place.iterdir())[int(rng.integers(5))] if place.is_dir() else place
    if name == "i.mhd" and rng.random() < 0.3:
        file = place.with_suffix(".raw")
    done = mutated(file, rng)
    try:
        door(place)
    except CaseError as error:
        assert error.reason and len(error.detail) > len(str(place)), error
        return name, done, error.reason
    return name, done, ""


def limited() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, in the middle of a library too


def main(folder: Path, first: int, count: int) -> None:
    """Run cases; a line of JSON for each failure, then one of counts. `folder/now` tells which case runs."""
    import highdicom  # noqa: F401 - before the limits

    warnings.simplefilter("ignore")  # as in a study, where they are silenced for privacy (hccstudy.privacy)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    whole = folder / "whole"
    whole.mkdir()
    build(whole)
    for name, door in DOORS:
        door(whole / name)  # without a mutation all are accepted
    limited()
    counts: Counter[str] = Counter()
    for number in range(first, first + count):
        (folder / "now").write_text(str(number))
        signal.alarm(PATIENCE)
        try:
            name, _, reason = one_case(whole, folder / "case", number)
            counts[f"{name}: {reason or 'accepted'}"] += 1
        except BaseException as error:
            where = traceback.format_exc().splitlines()[-30:]
            print(json.dumps({"case": number, "found": f"{type(error).__name__}: {error}", "where": where}))
        signal.alarm(0)
    print(json.dumps({"counts": counts, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


def test_a_mutated_file_is_refused_by_a_clear_error_or_accepted_whole(tmp_path):
    # PYTHONPATH as pytest has it: helpers are modules of this folder
    command = [sys.executable, __file__, str(tmp_path), "0", str(CASES)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, (done.returncode, f"case {(tmp_path / 'now').read_text()}", done.stderr[-2000:])
    *failures, last = map(json.loads, done.stdout.splitlines())
    assert failures == []
    assert sum(last["counts"].values()) == CASES
    accepted = sum(count for name, count in last["counts"].items() if name.endswith(": accepted"))
    assert 0.05 * CASES < accepted < 0.6 * CASES  # mutations that all are harmless, or deadly, would prove nothing
    assert last["peak"] < ROOM


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
