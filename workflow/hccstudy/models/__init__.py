"""Prognostic models: trained on development patients, frozen, then applied to centers that they never saw."""

from hccstudy.models.predict import predict_external
from hccstudy.models.train import train_model

__all__ = ["predict_external", "train_model"]
