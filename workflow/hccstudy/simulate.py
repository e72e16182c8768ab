"""The demo cohort: a seeded, five-center study of HCC whose truth is known.

Tables first, voxels later. `simulate_tables` draws every number of every patient: clinical variables,
outcomes and the traits of the tumor, tied to one latent risk `z`. `simulate_images` has `phantom` paint a
patient's scans from that patient's row of the truth and the seed in it, so any one patient can be made alone.
`README` states the model; it is written beside every simulated study.

Lengths are mm, intensities HU, times months.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk
from scipy import special

from hccstudy.errors import StudyError
from hccstudy.phantom import PHASES, TUMOR, Scanner, draw_patient, origin
from hccstudy.staging import bclc_stage, child_pugh_class, child_pugh_points
from hccstudy.tables import atomic, write_json, write_table

log = logging.getLogger(__name__)

Array = np.ndarray[Any, Any]

BETA_CLINICAL = 0.6  # log hazard ratio per unit of the clinical score, whose SD is about 1
BETA_RISK = 1.2  # log hazard ratio per unit of z, whose SD is 1 within a center
WEIBULL_SHAPE = 1.2
WEIBULL_SCALE = 56.0  # months: where the baseline survival is exp(-1)
# A typical cohort: z and the clinical score discriminate in it about as they do in 6,000 patients.
SEED = 250
STUDY_END = np.datetime64("2022-12-31")
DAYS_PER_MONTH = 30.4375
MVI_LOGIT = (-0.4, 1.6, 0.4)  # intercept, z, clinical score
# cuts of z + 0.3 clinical score + noise of SD 0.6 between the levels of mRECIST
RESPONSE_CUTS = (-1.0, 0.1, 0.95)
RESPONSES = ("CR", "PR", "SD", "PD")

SECOND_READINGS = 24 / 120  # second readers per patient of the cohort, all in development centers
BROKEN = ("empty mask", "mask elsewhere", "truncated image", "missing phase", "coarse mask")
ETIOLOGIES = ("HBV", "HCV", "alcohol", "MASLD")


@dataclass(frozen=True)
class Center:
    """One hospital: how it scans, and whom it treats."""

    role: str
    patients: int  # of 120
    manufacturer: str
    model: str
    kernel: str
    kvp: int
    scanner: Scanner
    risk: float  # mean of z
    burden: float  # mean of the latent tumor burden
    dysfunction: float  # mean of the latent liver dysfunction
    etiology: tuple[float, float, float, float]  # shares, in the order of ETIOLOGIES


# Scanner: spacing, blur, noise, grain, offset, scale. Then the means of z, burden and dysfunction.
# fmt: off
CENTERS = {
    "Aldbrook": Center("development", 26, "Simulated A", "Aquila 64", "Body soft", 120,
                       Scanner((2.0, 2.0, 3.0), 1.3, 10.0, 1.5, 0.0, 1.00),
                       0.0, 0.0, 0.0, (0.45, 0.25, 0.15, 0.15)),
    "Brennac": Center("development", 24, "Simulated B", "Borealis CT", "B30", 100,
                      Scanner((1.9, 1.9, 4.0), 1.5, 11.5, 1.7, 6.0, 1.02),
                      0.1, 0.2, -0.2, (0.15, 0.25, 0.40, 0.20)),
    "Corvale": Center("development", 22, "Simulated C", "Cygnus 256", "Standard", 120,
                      Scanner((2.1, 2.1, 5.0), 1.65, 9.0, 1.8, -5.0, 0.98),
                      -0.1, -0.1, 0.2, (0.25, 0.30, 0.20, 0.25)),
    "Dunmoor": Center("external", 26, "Simulated B", "Borealis XT", "B40", 110,
                      Scanner((2.0, 2.0, 4.0), 1.35, 12.0, 1.5, 5.0, 1.01),
                      0.15, 0.3, 0.1, (0.20, 0.20, 0.35, 0.25)),
    "Eastlyn": Center("external", 22, "Simulated D", "Draco One", "FC08", 130,
                      Scanner((2.2, 2.2, 5.0), 1.6, 10.5, 1.75, -4.0, 0.97),
                      -0.1, -0.2, -0.1, (0.60, 0.15, 0.10, 0.15)),
}
# fmt: on


def clinical_score(patients: pd.DataFrame, points: Array) -> Array:
    """The part of the clinical variables that the hazard depends on; mean about 0, SD about 1."""
    score = (
        0.55 * (np.log10(patients["afp"]) - 1.7)
        + 0.8 * np.log(patients["tumor_size"] / 42)
        + 0.35 * (points - 5.9)
        + 0.2 * (patients["tumor_number"] - 1.5)
        + 0.4 * (patients["ecog"] - 0.27)
    )
    return ((score + 0.19) / 0.88).to_numpy()


def simulate_tables(
    patients: int = 120, seed: int = SEED, folder: str = "images"
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Draw a cohort without its voxels: the tables patients, images and truth (see README for columns).

    `folder` leads the paths in the images table. The 120 patients of the centers scale to any count; from 20
    patients on, one patient of every center is broken on purpose.
    """
    if patients < 1:
        raise StudyError(f"simulate: patients is {patients}; expected at least 1")
    clinic, latent, fate, flaws = np.random.default_rng(seed).spawn(4)
    center = np.repeat(list(CENTERS), _shares(patients))
    frame = _draw_eligible(center, clinic)
    width = max(3, len(str(patients)))
    ids = [f"HCC-{number:0{width}d}" for number in range(1, patients + 1)]
    frame.insert(0, "patient", ids)
    frame.insert(1, "center", center)
    points = frame.pop("points").to_numpy()

    truth = frame[["patient", "center"]].copy()
    truth["seed"] = latent.integers(2**31, size=patients)
    truth["z"] = _of(center, "risk") + latent.standard_normal(patients)
    truth["clinical_score"] = clinical_score(frame, points)
    truth["log_hazard"] = BETA_CLINICAL * truth["clinical_score"] + BETA_RISK * truth["z"]
    truth = truth.assign(**_tumor_truth(frame, truth["z"].to_numpy(), latent))
    truth["broken"], second = _choose_flaws(center, flaws)
    frame = frame.assign(**_outcomes(frame, truth, fate))
    for column, share in {"afp": 0.04, "inr": 0.03, "mvi": 0.04, "mrecist": 0.03}.items():
        frame.loc[flaws.random(patients) < share, column] = None
    return frame, _images_table(truth, second, folder), truth


def _shares(patients: int) -> list[int]:
    """Patients per center, by largest remainder."""
    exact = np.array([center.patients for center in CENTERS.values()]) * patients / 120
    counts = np.floor(exact).astype(int)
    for place in np.argsort(counts - exact, kind="stable")[: patients - counts.sum()]:
        counts[place] += 1
    return counts.tolist()


def _of(center: Array, name: str) -> Array:
    """A number of each patient's center."""
    return np.array([getattr(CENTERS[one], name) for one in center])


def _draw_eligible(center: Array, rng: np.random.Generator) -> pd.DataFrame:
    """Clinical variables of patients up to BCLC C; like a study, redraw those in stage D."""
    frame = _draw_clinical(center, rng)
    while (terminal := (frame["bclc"] == "D").to_numpy()).any():
        again = _draw_clinical(center[terminal], rng)
        again.index = frame.index[terminal]
        frame.loc[terminal] = again
    return frame


def _draw_clinical(center: Array, rng: np.random.Generator) -> pd.DataFrame:
    """Clinical variables, correlated through a latent liver dysfunction and a latent tumor burden."""
    n = len(center)
    dysfunction = _of(center, "dysfunction") + 1.3 * rng.standard_normal(n)
    burden = _of(center, "burden") + rng.standard_normal(n)

    def share(latent: Array, loading: float) -> Array:
        return loading * latent + math.sqrt(1 - loading**2) * rng.standard_normal(n)

    cumulative = np.cumsum(_of(center, "etiology"), axis=1)
    etiology = np.array(ETIOLOGIES)[(rng.random(n)[:, None] > cumulative[:, :-1]).sum(axis=1)]
    male = np.select([etiology == "HBV", etiology == "alcohol", etiology == "MASLD"], [0.84, 0.88, 0.66], 0.72)
    older = np.select([etiology == "HBV", etiology == "MASLD"], [-6, 4], 0)
    frame = pd.DataFrame(
        {
            "index_date": np.datetime64("2012-01-01") + rng.integers(0, 8 * 365, n),
            "age": np.clip(np.round(64 + older + 9 * rng.standard_normal(n)), 25, 90).astype(int),
            "sex": np.where(rng.random(n) < male, "M", "F"),
            "etiology": etiology,
            "ecog": np.digitize(share(0.8 * dysfunction + 0.6 * burden, 0.4), [0.8, 1.9]),
            "afp": np.round(np.maximum(1, np.exp(math.log(40) + 2.1 * share(burden, 0.45))), 1),
            "albumin": np.clip(np.round(39.5 - 4.2 * share(dysfunction, 0.75), 1), 18, 52),
            "bilirubin": np.round(np.exp(math.log(16) + 0.5 * share(dysfunction, 0.75)), 1),
            "inr": np.round(np.clip(1.14 * np.exp(0.12 * share(dysfunction, 0.7)), 0.8, 4), 2),
            "platelets": np.round(np.clip(150 * np.exp(-0.4 * share(dysfunction, 0.7)), 20, 600)).astype(int),
            "ascites": np.array(["none", "mild", "moderate"])[np.digitize(share(dysfunction, 0.7), [1.1, 1.9])],
            "encephalopathy": np.array(["none", "mild", "severe"])[np.digitize(share(dysfunction, 0.7), [2.0, 3.0])],
            "tumor_number": 1 + np.minimum(4, rng.poisson(np.exp(-1.1 + 0.5 * burden))),
            "tumor_size": np.clip(np.round(42 * np.exp(0.4 * burden)), 16, 80).astype(int),
        }
    )
    frame["index_date"] = frame["index_date"].astype(str)
    liver = [frame[name].to_numpy() for name in ("albumin", "bilirubin", "inr", "ascites", "encephalopathy")]
    frame["points"] = child_pugh_points(*liver)
    frame["child_pugh"] = child_pugh_class(frame["points"].to_numpy())
    stage_by = [frame[name].to_numpy() for name in ("tumor_number", "tumor_size", "child_pugh", "ecog")]
    frame["bclc"] = bclc_stage(*stage_by)
    return frame


def _tumor_truth(frame: pd.DataFrame, z: Array, rng: np.random.Generator) -> dict[str, Array]:
    """What the images will show. Each trait follows z with noise of its own, so none of them is z."""

    def trait(slope: float, noise: float) -> Array:
        return slope * z + noise * rng.standard_normal(len(z))

    return {
        "tumor_size": frame["tumor_size"].to_numpy(),
        "tumor_number": frame["tumor_number"].to_numpy(),
        "texture_hu": 24 * np.exp(trait(0.4, 0.15)),
        "texture_mm": np.clip(3.2 * np.exp(trait(-0.12, 0.12)), 1.8, 6),
        "core_fraction": 0.6 * special.expit(trait(0.8, 0.6) - 0.9),
        "irregularity": np.clip(0.06 * np.exp(trait(0.4, 0.3)), 0.015, 0.16),
        "capsule_hu": np.clip(22 + trait(-11, 8), 0, 50),
        "halo_hu": 9 * np.exp(trait(0.45, 0.3)),
        "washin_hu": np.clip(42 + trait(5, 12), 10, 80),
        "washout_hu": np.clip(20 + trait(4, 8), 0, 45),
        "noise_factor": np.exp(0.08 * rng.standard_normal(len(z))),
        "arterial_delay": np.round(35 + 3 * rng.standard_normal(len(z)), 1),
        "portal_delay": np.round(72 + 5 * rng.standard_normal(len(z)), 1),
    }


def _outcomes(frame: pd.DataFrame, truth: pd.DataFrame, rng: np.random.Generator) -> dict[str, Any]:
    """Survival (Weibull, proportional hazards, independent censoring), MVI (logistic) and mRECIST."""
    n = len(frame)
    z, score = truth["z"].to_numpy(), truth["clinical_score"].to_numpy()
    scaled = rng.exponential(size=n) / np.exp(truth["log_hazard"].to_numpy())
    death = WEIBULL_SCALE * scaled ** (1 / WEIBULL_SHAPE)
    index_date = frame["index_date"].to_numpy().astype("datetime64[D]")
    closing = (STUDY_END - index_date).astype(float) / DAYS_PER_MONTH
    censoring = np.minimum(closing, rng.exponential(180.0, size=n))
    response = z + 0.3 * score + 0.6 * rng.standard_normal(n)
    intercept, by_z, by_score = MVI_LOGIT
    mvi = rng.random(n) < special.expit(intercept + by_z * z + by_score * score)
    return {
        "os_months": np.maximum(0.1, np.round(np.minimum(death, censoring), 1)),
        "os_event": (death <= censoring).astype(int),
        "mvi": pd.array(mvi.astype(int), dtype="Int64"),
        "mrecist": np.array(RESPONSES)[np.digitize(response, RESPONSE_CUTS)],
    }


def _choose_flaws(center: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Who is broken, and how (one patient per center), and who was read twice (development, not broken)."""
    broken = np.full(len(center), "", dtype=object)
    if len(center) >= 20:
        for flaw, name in zip(BROKEN, CENTERS, strict=True):
            broken[rng.choice(np.flatnonzero(center == name))] = flaw
    sound = np.flatnonzero((_of(center, "role") == "development") & (broken == ""))
    second = np.zeros(len(center), dtype=bool)
    readings = min(len(sound), round(SECOND_READINGS * len(center)))
    second[rng.choice(sound, size=readings, replace=False)] = True
    return broken, second


def _images_table(truth: pd.DataFrame, second: Array, folder: str) -> pd.DataFrame:
    """images.tsv: a row per patient, phase and reader."""
    rows = []
    for row, twice in zip(truth.itertuples(), second, strict=True):
        for phase in PHASES:
            if row.broken == "missing phase" and phase == "portal":
                continue
            stem = (Path(folder) / f"{row.patient}_{phase}").as_posix()
            for reader in "AB" if twice else "A":
                mask = f"{stem}_mask{reader}.nii.gz"
                rows.append((row.patient, "baseline", phase, f"{stem}.nii.gz", mask, TUMOR, reader))
    columns = ["patient", "timepoint", "series", "image", "mask", "label", "reader"]
    return pd.DataFrame(rows, columns=columns)


def simulate_images(truth: pd.DataFrame, images: pd.DataFrame, folder: str | Path) -> int:
    """Write the files that `images` names below `folder`, and beside each image how it was acquired (JSON).

    Any rows of the truth will do: a patient's files depend on that patient's row alone. Returns how many
    files were written.
    """
    written = 0
    for traits in truth.to_dict("records"):
        rows = images[images["patient"] == traits["patient"]]
        center = CENTERS[traits["center"]]
        scans = draw_patient(traits, center.scanner, "".join(sorted(rows["reader"].unique())))
        for row in rows.itertuples():
            voxels, masks = scans[row.series]
            if row.reader == "A":
                image = _placed(voxels, center.scanner)
                _write_image(image, Path(folder) / row.image, whole=traits["broken"] != "truncated image")
                sidecar = Path(folder) / row.image.replace(".nii.gz", ".json")
                write_json(_acquisition(center, row.series, traits), sidecar)
                written += 2
            mask = _break_mask(_placed(masks[row.reader], center.scanner), traits["broken"])
            _write_image(mask, Path(folder) / row.mask)
            written += 1
        log.info("%s: %d scans of %s", traits["patient"], rows["series"].nunique(), traits["center"])
    return written


def simulate_cohort(*, patients: int, seed: int, folder: str, done: str) -> None:
    """Stage function: write the demo's images into `folder`, then `done`.

    The files are those of `simulate_tables(patients, seed, folder)`; its paths start at the working folder.
    """
    _, images, truth = simulate_tables(patients, seed, folder)
    files = simulate_images(truth, images, ".")
    write_json({"patients": patients, "seed": seed, "files": files}, done)


def simulate_study(folder: str | Path, patients: int = 120, seed: int = SEED) -> None:
    """Write a study into `folder`: patients.tsv, images.tsv, truth.tsv, README.md and images/."""
    tables = simulate_tables(patients, seed)
    for name, frame in zip(("patients", "images", "truth"), tables, strict=True):
        write_table(frame, Path(folder) / f"{name}.tsv")
    with atomic(Path(folder) / "README.md") as temporary:
        temporary.write_text(readme(patients, seed), encoding="utf-8")
    simulate_images(tables[2], tables[1], folder)


def _placed(voxels: Array, scanner: Scanner) -> sitk.Image:
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(scanner.spacing)
    image.SetOrigin(origin(scanner))
    return image


def _write_image(image: sitk.Image, path: Path, *, whole: bool = True) -> None:
    """Write an image; `whole=False` loses the second half of the file, as a broken transfer does."""
    with atomic(path) as temporary:
        sitk.WriteImage(image, temporary, True)
        if not whole:
            content = temporary.read_bytes()
            temporary.write_bytes(content[: len(content) // 2])


def _break_mask(mask: sitk.Image, flaw: str) -> sitk.Image:
    if flaw == "empty mask":
        return mask * 0
    if flaw == "mask elsewhere":  # another grid, half a meter above the patient
        mask = mask[::2, ::2, :]
        x, y, z = mask.GetOrigin()
        mask.SetOrigin((x, y, z + 500))
    elif flaw == "coarse mask":  # half the resolution in plane, same place
        mask = mask[::2, ::2, :]
    return mask


def _acquisition(center: Center, phase: str, traits: dict[str, Any]) -> dict[str, Any]:
    """The sidecar: DICOM attribute names, and the delay after the contrast injection in seconds."""
    x, y, thickness = center.scanner.spacing
    return {
        "Modality": "CT",
        "Manufacturer": center.manufacturer,
        "ManufacturerModelName": center.model,
        "ConvolutionKernel": center.kernel,
        "KVP": center.kvp,
        "PixelSpacing": [y, x],
        "SliceThickness": thickness,
        "SpacingBetweenSlices": thickness,
        "SeriesDescription": f"Abdomen {phase}",
        "ContrastBolusAgent": "iodinated, intravenous",
        "ContrastBolusDelay": traits[f"{phase}_delay"],
    }


def readme(patients: int, seed: int) -> str:
    """The README of a simulated study: what is in it, and the model that made it."""
    rows = []
    for name, center in CENTERS.items():
        scanner = center.scanner
        spacing = f"{scanner.spacing[0]:g} x {scanner.spacing[2]:g}"
        optics = [f"{value:g}" for value in (scanner.noise, scanner.blur, scanner.grain)]
        shifts = [f"{scanner.offset:+g}", f"{scanner.scale:g}"]
        mix = [f"{value:+g}" for value in (center.risk, center.burden, center.dysfunction)]
        cells = [name, center.role, center.manufacturer, spacing, *optics, *shifts, *mix]
        rows.append(f"| {' | '.join(cells)} |")
    return README.format(
        patients=patients,
        seed=seed,
        centers="\n".join(rows),
        beta_clinical=BETA_CLINICAL,
        beta_risk=BETA_RISK,
        shape=WEIBULL_SHAPE,
        scale=WEIBULL_SCALE,
        end=STUDY_END,
        mvi=MVI_LOGIT,
        cuts=", ".join(f"{cut:g}" for cut in RESPONSE_CUTS),
        responses=", ".join(RESPONSES),
    )


README = """# A simulated study

{patients} patients who never lived, made by `hccstudy simulate` with seed {seed}. The same seed gives the
same bytes.

- `patients.tsv`: a row a patient. AFP is in ng/mL, albumin g/L, bilirubin umol/L, platelets 10^9/L;
  tumor_size is the largest diameter in mm. Some AFP, INR, MVI and mRECIST are missing. Child-Pugh and BCLC
  follow the published rules, from the complete values; patients in BCLC D were not eligible.
- `images.tsv`: a row a patient, phase (arterial, portal) and reader. Masks: 1 index tumor, 2 liver, 3 other
  lesions. A JSON file beside each image says how it was acquired.
- `truth.tsv`: what a study never knows.

## The truth

Each patient has a latent risk `z`: normal with SD 1 about the mean of the center, independent of the
clinical variables within a center. `clinical_score` has mean about 0 and SD about 1:

    (0.55 (log10 AFP - 1.7) + 0.8 ln(tumor_size / 42) + 0.35 (Child-Pugh points - 5.9)
     + 0.2 (tumor_number - 1.5) + 0.4 (ECOG - 0.27) + 0.19) / 0.88

- Survival: Weibull, shape {shape:g}, baseline scale {scale:g} months, and `log_hazard` = {beta_clinical:g}
  clinical_score + {beta_risk:g} z. Censored on {end} or by a random loss to follow-up; neither knows the
  risk.
- MVI: logit = {mvi[0]:g} + {mvi[1]:g} z + {mvi[2]:g} clinical_score.
- mRECIST: z + 0.3 clinical_score + normal noise of SD 0.6, cut at {cuts} into {responses}.
- Images: the higher z, the stronger (`texture_hu`) and finer (`texture_mm`) the tumor's texture, the larger
  its necrotic core (`core_fraction`), the more irregular its outline (`irregularity`), the weaker its
  capsule (`capsule_hu`) and the stronger its invasion of the liver around it (`halo_hu`); wash-in and
  wash-out hardly follow z. Each trait has noise of its own, so that none of them gives z away.

The centers scan differently and treat different patients. Spacing, blur and grain are in mm (in plane x
through plane, SD, SD), noise and offset in HU; z, burden and dysfunction are means of latent variables.

| center | role | vendor | spacing | noise | blur | grain | offset | scale | z | burden | dysfunction |
|---|---|---|---|---|---|---|---|---|---|---|---|
{centers}

From 20 patients on, one patient in each center is broken on purpose (column `broken` of the truth): an
empty mask; a mask whose grid lies elsewhere; an image whose file lost its second half; a missing portal
phase; and a mask on a coarser grid in the right place, which is no reason to lose the patient. About one
patient in five, all in development centers, has a second reader (B), who draws less exactly.
"""
