"""The design of the made-up study of report_tables.py: centers, losses, features, configuration."""

from __future__ import annotations

from typing import Any

CENTERS = {"Aldbrook": 26, "Brennac": 24, "Corvale": 22, "Dunmoor": 26, "Eastlyn": 22}
DEVELOPMENT, EXTERNAL = ["Aldbrook", "Brennac", "Corvale"], ["Dunmoor", "Eastlyn"]
LEVELS = ["CR", "PR", "SD", "PD"]
SIGNAL = {"clinical": 0.5, "radiomics": 1.2, "combined": 1.4, "forest": 1.0, "boosting": 0.9}
LOST = [  # place in the cohort, stage, reason, detail, excluded
    (7, "cohort", "no baseline visit", "patients.tsv row 9: index_date is missing; expected a date", True),
    (13, "imports", "no portal image", "images.tsv has no portal row for HCC-014; expected one", True),
    (
        31,
        "imports",
        "truncated or unreadable image",
        "HCC-032_arterial.nii.gz: ended after 81920 bytes",
        False,
    ),
    (60, "imports", "empty mask", "HCC-061_mask.nii.gz holds no voxel of label 1", False),
    (90, "imports", "mask on another grid", "overlap 0 % of the tumor; expected 100 %", False),
    (100, "regions", "tumor smaller than the minimum", "19 voxels; expected at least 27", True),
]
FEATURES = [
    f"{series}.{region}.{kind}"
    for series in ("arterial", "portal")
    for region in ("tumor", "ring_0_10")
    for kind in [
        *[f"original_firstorder_{name}" for name in ("Mean", "Entropy", "Skewness", "Kurtosis", "Range", "Energy")],
        *[f"original_glcm_{name}" for name in ("Contrast", "Correlation", "Idm", "JointEntropy", "Imc1", "Imc2")],
        *[f"wavelet-LLH_glrlm_{name}" for name in ("RunEntropy", "RunVariance", "GrayLevelNonUniformityNormalized")],
        *[f"log-sigma-3-0-mm-3D_glszm_{name}" for name in ("ZoneEntropy", "SmallAreaEmphasis", "ZonePercentage")],
        *[f"original_shape_{name}" for name in ("Sphericity", "MeshVolume", "Flatness")],
    ]
]

SETTINGS: dict[str, Any] = {
    "study": {"name": "demo", "title": "Radiomics of simulated hepatocellular carcinoma", "seed": 20240501},
    "cohort": {
        "centers": {"column": "center", "development": DEVELOPMENT, "external": EXTERNAL},
        "columns": {
            "index_date": {"type": "date", "label": "Index date"},
            "age": {"type": "number", "unit": "years", "range": [18, 100], "label": "Age"},
            "sex": {"type": "category", "levels": ["F", "M"], "label": "Sex"},
            "etiology": {
                "type": "category",
                "levels": ["HBV", "HCV", "alcohol", "MASLD"],
                "label": "Etiology",
            },
            "afp": {"type": "number", "unit": "ng/mL", "range": [0, 1e6], "label": "AFP"},
            "albumin": {"type": "number", "unit": "g/L", "range": [10, 60], "label": "Albumin"},
            "tumor_number": {"type": "number", "unit": "", "range": [1, 50], "label": "Number of tumors"},
            "tumor_size": {"type": "number", "unit": "mm", "range": [1, 300], "label": "Largest tumor"},
            "child_pugh": {"type": "category", "levels": ["A", "B", "C"], "label": "Child-Pugh class"},
        },
    },
    "endpoints": {
        "os": {
            "type": "survival",
            "label": "Overall survival",
            "time": "os_months",
            "event": "os_event",
            "unit": "months",
            "horizons": [12, 24],
        },
        "mvi": {"type": "binary", "label": "Microvascular invasion", "column": "mvi"},
        "mrecist": {"type": "multiclass", "label": "mRECIST response", "column": "mrecist", "levels": LEVELS},
    },
    "series": {
        "arterial": {
            "modality": "CT",
            "timepoint": "baseline",
            "spacing": [2, 2, 2],
            "normalization": "none",
        },
        "portal": {"modality": "CT", "timepoint": "baseline", "spacing": [2, 2, 2], "normalization": "none"},
    },
    "regions": {"rings": {"ring_0_10": [0, 10]}, "minimum_voxels": 27},
    "features": {"mode": "ibsi", "engine": "fast", "names": "ibsi"},
    "stability": {"method": "readers", "patients": 30, "perturbations": 3, "threshold": 0.75},
    "harmonize": {"method": "combat"},
    "models": {
        "clinical": {
            "predictors": "clinical",
            "estimator": "linear",
            "select": None,
            "endpoints": ["os", "mvi", "mrecist"],
        },
        "radiomics": {
            "predictors": "radiomics",
            "estimator": "lasso",
            "select": 50,
            "endpoints": ["os", "mvi", "mrecist"],
        },
        "combined": {
            "predictors": "combined",
            "estimator": "linear",
            "select": None,
            "endpoints": ["os", "mvi", "mrecist"],
        },
        "forest": {"predictors": "radiomics", "estimator": "forest", "select": 20, "endpoints": ["os", "mvi"]},
        "boosting": {
            "predictors": "radiomics",
            "estimator": "boosting",
            "select": 20,
            "endpoints": ["os", "mvi", "mrecist"],
        },
    },
    "resampling": {"folds": 5, "inner_folds": 3, "correlation": 0.9, "optimism": 10},
    "validation": {"bootstrap": 200, "thresholds": [round(0.05 * k, 2) for k in range(1, 15)]},
}


PAIRS = [(endpoint, model) for model, of in SETTINGS["models"].items() for endpoint in of["endpoints"]]
