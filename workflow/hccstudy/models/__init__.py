"""Prognostic models: trained on development patients, frozen, then applied to centers that they never saw."""

from hccstudy.models.internal import validate_internally
from hccstudy.models.predict import predict_external
from hccstudy.models.train import train_model

__all__ = ["predict_external", "train_model", "validate_internally"]
