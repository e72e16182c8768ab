"""What each stage is told of the configuration: the smallest part that changes its result.

A stage runs again where its settings change and only there, so a model's setting re-extracts nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hccstudy.config import Config

PREPROCESS_KEYS = (
    "modality",
    "spacing",
    "interpolator",
    "window",
    "bias_correction",
    "normalization",
    "normalization_region",
    "landmarks",
)


def _of_series(config: Config, keys: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    return {name: {key: rules[key] for key in keys} for name, rules in config["series"].items()}


def cohort_settings(config: Config) -> Config:
    """`cohort.split_cohort`: everything that the cross-row checks look at."""
    cohort = {key: value for key, value in config["cohort"].items() if key not in ("batch_size", "keep_images")}
    sources = {"features": {key: config["features"][key] for key in ("table", "repeats")}}
    keys = ("endpoints", "series", "harmonize", "predictors")
    return {"cohort": cohort} | sources | {key: config[key] for key in keys if key in config}


def import_settings(config: Config) -> Config:
    """`imports.import_batch`."""
    keys = ("modality", "timepoint", "required", "description", "latest_day")
    return config["imports"] | {"series": _of_series(config, keys)}


def preprocess_settings(config: Config) -> Config:
    """`preprocess.preprocess_batch`."""
    return config["preprocess"] | {"series": _of_series(config, PREPROCESS_KEYS), "mode": config["features"]["mode"]}


def region_settings(config: Config) -> Config:
    """`regions.make_regions_batch`."""
    limits = {
        name: {"range": rules["resegment_range"], "sigma": rules["resegment_sigma"]}
        for name, rules in config["series"].items()
    }
    return config["regions"] | {"resegment": limits}


def feature_settings(config: Config) -> Config:
    """`features.extract_batch`."""
    parameters = {name: rules["parameters"] for name, rules in config["series"].items()}
    ranges = {name: rules["resegment_range"] for name, rules in config["series"].items()}
    ways = {key: config["features"][key] for key in ("mode", "engine", "names")}
    return ways | {"parameters": parameters, "ranges": ranges}


def repeat_settings(config: Config) -> Config:
    """`stability.measure_repeats_batch`."""
    return {
        "regions": region_settings(config),
        "features": feature_settings(config),
        "perturbations": config["stability"]["perturbations"],
        "primary_reader": config["features"]["primary_reader"],
        "seed": config["study"]["seed"],
    }


def model_settings(config: Config, endpoint: str, model: str) -> Config:
    """`models.train_model` and `models.predict_external`."""
    rules = config["models"][model]
    return {
        "endpoint": config["endpoints"][endpoint] | {"name": endpoint},
        "model": {key: rules[key] for key in ("predictors", "estimator", "select", "features")} | {"name": model},
        "clinical": {name: config["cohort"]["columns"][name] for name in config["predictors"]["clinical"]},
        "stability": {key: config["stability"][key] for key in ("method", "threshold")},
        "harmonize": config["harmonize"]["method"],
        "resampling": {key: config["resampling"][key] for key in ("folds", "inner_folds", "correlation")},
        "seed": config["study"]["seed"],
    }


def internal_settings(config: Config, endpoint: str, model: str) -> Config:
    """`models.validate_internally`: those of the model, and how often what is drawn."""
    return model_settings(config, endpoint, model) | {
        "optimism": config["resampling"]["optimism"],
        "bootstrap": config["validation"]["bootstrap"],
        "minimum_events": config["validation"]["minimum_events"],
    }


def validation_settings(config: Config, endpoint: str, model: str = "") -> Config:
    """`validation.validate`, and `validation.compare_models` where no model is named."""
    rules = config["validation"]
    low, high = rules["thresholds"]
    return config["endpoints"][endpoint] | {
        "endpoint": endpoint,
        "model": model,
        "bootstrap": rules["bootstrap"],
        "seed": config["study"]["seed"],
        "thresholds": [round(float(value), 2) for value in np.arange(low, high + 0.005, 0.01)],
        "groups": rules["groups"],
        "minimum_events": rules["minimum_events"],
        "smoother": rules["smoother"],
    }
