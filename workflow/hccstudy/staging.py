"""Published staging of liver function and of HCC, from arrays with a value per patient."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def child_pugh_points(albumin: Array, bilirubin: Array, inr: Array, ascites: Array, encephalopathy: Array) -> Array:
    """Child-Pugh points (5 to 15) per patient.

    Albumin in g/L, bilirubin in umol/L, ascites none/mild/moderate, encephalopathy none/mild/severe (none,
    grade 1-2, grade 3-4).
    Source: Pugh et al., Br J Surg 1973;60:646, with INR in place of the prothrombin time as customary.
    """
    points = 1 + (albumin <= 35).astype(int) + (albumin < 28)
    points += 1 + (bilirubin >= 34).astype(int) + (bilirubin > 50)
    points += 1 + (inr >= 1.7).astype(int) + (inr > 2.3)
    points += np.select([ascites == "none", ascites == "mild"], [1, 2], 3)
    points += np.select([encephalopathy == "none", encephalopathy == "mild"], [1, 2], 3)
    return points


def child_pugh_class(points: Array) -> Array:
    """A (5 or 6 points), B (7 to 9) or C."""
    return np.select([points <= 6, points <= 9], ["A", "B"], "C")


def bclc_stage(number: Array, size: Array, child_pugh: Array, ecog: Array) -> Array:
    """BCLC stage (0, A, B, C, D) from tumor count, largest diameter in mm, Child-Pugh class and ECOG status.

    For patients without vascular invasion or spread: C is then a matter of performance status. Child-Pugh C
    is stage D unless the tumors fit the Milan criteria, as liver transplantation is then the treatment.
    Source: Reig et al., J Hepatol 2022;76:681.
    """
    milan = ((number == 1) & (size <= 50)) | ((number <= 3) & (size <= 30))
    rules = [
        (ecog > 2) | ((child_pugh == "C") & ~milan),
        ecog > 0,
        (number == 1) & (size <= 20) & (child_pugh == "A"),
        (number == 1) | ((number <= 3) & (size <= 30)),
    ]
    return np.select(rules, ["D", "C", "0", "A"], "B")
