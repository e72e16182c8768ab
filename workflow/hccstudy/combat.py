"""ComBat as a fitted step: what a scanner adds to the features is estimated on training rows and frozen.

The model is that of Johnson, Li & Rabinovic (Biostatistics 2007): feature = mean + covariates + pooled SD *
(shift of the center + scale of the center * error), shift and scale shrunk over features by empirical Bayes.
The solvers are neuroCombat's. Standardization, checks, transform and storage are our own, because neuroCombat
0.2.12 cannot freeze a fit and turns one bad cell, one constant feature or one lone patient into NaN
everywhere without an exception.

No function here takes an outcome.
"""

from __future__ import annotations

import copy
import importlib
import logging
from collections.abc import Collection, Mapping
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from hccstudy.errors import StudyError

# The package re-exports a function under the name of this module, so that a plain import finds the function.
solvers = importlib.import_module("neuroCombat.neuroCombat")

log = logging.getLogger(__name__)

Array = NDArray[np.float64]

# A feature whose range is below this part of its magnitude is constant: what varies is rounding.
CONSTANT = 1e-12
# Condition number (columns of unit length) from which least squares no longer tells covariate from center:
# Belsley, Kuh & Welsch 1980. An uncentered covariate would add the constant's collinearity to it, so
# covariates are centered.
CONDITION = 30
# What to_parameters writes, of a fit and of each of its batches.
PARAMETERS = (
    "options",
    "features",
    "untouched",
    "covariates",
    "mean",
    "sd",
    "beta",
    "target_mean",
    "target_sd",
    "batches",
)
BATCH = ("n", "mean_only", "added", "shift", "scale")


class ComBat(TransformerMixin, BaseEstimator):
    """ComBat on a frame with a row per patient and a column per feature; `batch` is the center of each row.

    `reference`: a batch that stays as it is and to which the others are brought; None: a common mean.
    `mean_only`: True (shifts alone, as sva's mean.only) or the names of batches that get a shift, no scale.
    `parametric`: normal and inverse gamma priors; False: empirical priors (slow: features squared).
    `covariates` of fit and transform: a frame of what ComBat must preserve (numbers, or text as categories).
    An outcome, or anything derived from one, is never a covariate: it would leak into every feature.

    Features that are constant, or constant within a batch, pass through untouched and take no part in the
    priors. Rows are transformed one by one with frozen parameters: a patient's result depends on nobody else.

    StudyError: a missing or infinite value, fewer than two batches, a batch of one, an unknown batch or
    reference, covariates confounded with the batches, features that do not match the fit by name.
    """

    def __init__(
        self,
        reference: str | None = None,
        mean_only: bool | Collection[str] = False,
        parametric: bool = True,
    ) -> None:
        self.reference = reference
        self.mean_only = mean_only
        self.parametric = parametric

    def fit(self, X: pd.DataFrame, batch: pd.Series, covariates: pd.DataFrame | None = None) -> Self:
        self.features_ = _feature_names(X)
        values, names = _values(X, self.features_), _batch_names(X, batch)
        levels, index, sizes = np.unique(names, return_inverse=True, return_counts=True)
        self._check_batches(levels, sizes)
        self.covariates_ = _describe_covariates(X, covariates)
        design = _encode(X, covariates, self.covariates_)
        _check_confounding(index, design, self.covariates_)

        target = None if self.reference is None else int(np.flatnonzero(levels == self.reference)[0])
        with np.errstate(over="ignore", invalid="ignore"):
            beta, mean, variance = _least_squares(values, index, design, target)
        if not (finite := np.isfinite(variance)).all():
            raise StudyError(
                f"ComBat: feature {self.features_[int(finite.argmin())]} is too large to be squared; "
                "expected values below 1e150"
            )
        # A feature that is constant within a batch has no scale there, one that covariates explain no SD.
        adjusted = variance > (CONSTANT * np.abs(values).max(axis=0)) ** 2
        for number in range(len(levels)):
            adjusted &= varies(values[index == number])
        # Neutral numbers for untouched features: one formula serves all, (x - 0) / 1 * 1 + 0 is x exactly.
        self.mean_ = np.where(adjusted, mean, 0.0)
        self.sd_ = np.where(adjusted, np.sqrt(variance), 1.0)
        self.beta_ = np.where(adjusted, beta, 0.0)
        self.untouched_ = [name for name, used in zip(self.features_, adjusted, strict=True) if not used]
        if self.untouched_:
            log.info("ComBat: %d of %d features do not vary, untouched", len(self.untouched_), len(adjusted))
        offset = _effect(design, self.beta_)
        z = (values - offset - self.mean_) / self.sd_
        self.batches_ = {
            str(level): self._estimate(str(level), z[index == number], adjusted, self.mean_only)
            for number, level in enumerate(levels)
        }
        # What a center that is added later is brought to, see add_batch.
        self.target_mean_, self.target_sd_ = self.mean_, self.sd_
        if self.reference is None:
            harmonized = self._harmonize(values, names, design) - offset
            self.target_mean_ = np.where(adjusted, harmonized.mean(axis=0), 0.0)
            self.target_sd_ = np.where(adjusted, harmonized.std(axis=0), 1.0)
        return self

    def transform(self, X: pd.DataFrame, batch: pd.Series, covariates: pd.DataFrame | None = None) -> pd.DataFrame:
        """Harmonized features in the order of the fit; the columns of `X` may come in any order."""
        check_is_fitted(self, "batches_")
        values, names = _values(X, self.features_), _batch_names(X, batch)
        unknown = sorted(set(names) - set(self.batches_))
        if unknown:
            raise StudyError(f"ComBat: center {unknown[0]} is not in the fit; it knows {', '.join(self.batches_)}")
        result = self._harmonize(values, names, _encode(X, covariates, self.covariates_))
        return pd.DataFrame(result, index=X.index, columns=self.features_)

    def fit_transform(self, X: pd.DataFrame, batch: pd.Series, covariates: pd.DataFrame | None = None) -> pd.DataFrame:
        return self.fit(X, batch, covariates).transform(X, batch, covariates)

    def add_batch(
        self,
        X: pd.DataFrame,
        name: str,
        covariates: pd.DataFrame | None = None,
        mean_only: bool | Collection[str] = False,
    ) -> Self:
        """A copy that also knows batch `name`, brought to the frozen training as to a reference batch.

        Shift and scale come from the rows of `X` alone; every other parameter stays. The target is the
        reference batch where there is one, else the harmonized training rows taken as one batch (their mean
        and SD), so that the result equals ComBat with those rows as its reference batch.
        """
        check_is_fitted(self, "batches_")
        if name in self.batches_:
            raise StudyError(f"ComBat: center {name} is already in the fit; expected a center it does not know")
        values = _values(X, self.features_)
        if len(values) < 2:
            raise StudyError(f"ComBat: center {name} has {len(values)} patients; expected at least 2")
        plain = values - _effect(_encode(X, covariates, self.covariates_), self.beta_)
        adjusted = ~np.isin(self.features_, self.untouched_) & varies(values)
        model = copy.deepcopy(self)
        z = (plain - self.target_mean_) / self.target_sd_
        model.batches_[name] = self._estimate(name, z, adjusted, mean_only) | {"added": True}
        return model

    def to_parameters(self) -> dict[str, Any]:
        """Everything that transform needs, as JSON values; from_parameters restores it to the last bit."""
        check_is_fitted(self, "batches_")
        options = {k: v if isinstance(v, str | bool | None) else sorted(v) for k, v in self.get_params().items()}
        state = {name: value for name, value in vars(self).items() if name.endswith("_")}
        return {"options": options} | {name.rstrip("_"): _to_json(value) for name, value in state.items()}

    @classmethod
    def from_parameters(cls, parameters: dict[str, Any]) -> Self:
        """The fit that to_parameters described. StudyError: a missing part, a wrong length, a number that is none."""
        _check_parameters(parameters)
        model = cls(**parameters["options"])
        for name in ("features", "untouched", "covariates"):
            setattr(model, f"{name}_", list(parameters[name]))
        for name in ("mean", "sd", "target_mean", "target_sd"):
            setattr(model, f"{name}_", np.array(parameters[name], dtype=float))
        model.beta_ = np.array(parameters["beta"], dtype=float).reshape(-1, len(model.features_))
        model.batches_ = {
            name: batch | {part: np.array(batch[part], dtype=float) for part in ("shift", "scale")}
            for name, batch in parameters["batches"].items()
        }
        return model

    def _check_batches(self, levels: NDArray[np.str_], sizes: NDArray[np.int64]) -> None:
        if len(levels) < 2:
            raise StudyError(f"ComBat: the only center is {', '.join(levels)}; expected at least two to harmonize")
        if sizes.min() < 2:
            raise StudyError(f"ComBat: center {levels[sizes.argmin()]} has one patient; expected at least 2")
        named = [] if isinstance(self.mean_only, bool) else list(self.mean_only)
        for name in [*([] if self.reference is None else [self.reference]), *named]:
            if name not in levels:
                raise StudyError(f"ComBat: center {name} (reference or mean_only) is not among {', '.join(levels)}")

    def _estimate(self, name: str, z: Array, adjusted: NDArray[np.bool_], mean_only: bool | Collection[str]) -> dict:
        """Posterior shift (in SD) and scale (SD ratio) of one batch from its standardized rows."""
        only_mean = mean_only if isinstance(mean_only, bool) else name in mean_only
        shift, scale = np.zeros(z.shape[1]), np.ones(z.shape[1])
        if name != self.reference:
            # sva's mean.only shrinks the shift as if the batch held one patient, which leaves much of it:
            # kept where the whole fit is mean-only, to be what sva is. A batch that mean_only names gets the
            # model's own posterior mean, that of its n patients given a scale of 1.
            weight = 1 if mean_only is True else len(z)
            shift[adjusted], scale[adjusted] = _posterior(
                z[:, adjusted], name, only_mean, weight, parametric=self.parametric
            )
        return {"n": len(z), "mean_only": bool(only_mean), "added": False, "shift": shift, "scale": scale}

    def _harmonize(self, values: Array, names: NDArray[np.str_], design: Array) -> Array:
        # Elementwise (no matrix product), so that a row's last bit does not depend on its neighbors.
        result = values.copy()
        offset = _effect(design, self.beta_)
        for name in np.unique(names):
            if name == self.reference:
                continue  # the reference stays as it is, bit by bit
            rows, batch = names == name, self.batches_[name]
            added = batch["added"]
            mean, sd = (self.target_mean_, self.target_sd_) if added else (self.mean_, self.sd_)
            z = (values[rows] - offset[rows] - mean) / sd
            moved = (batch["shift"] != 0) | (batch["scale"] != 1)  # others stay exactly, without rounding
            there = (z - batch["shift"]) / batch["scale"] * sd + mean + offset[rows]
            result[rows] = np.where(moved, there, values[rows])
        return result


class CenterComBat(TransformerMixin, BaseEstimator):
    """ComBat for a frame whose column `center` names the batch, with the policy for centers of this project.

    Centers of the training are harmonized. A center that the training has not seen passes through unchanged:
    that is the primary result of an external validation (frozen model, no harmonization of the new center).
    A training center with n < `minimum` patients is refused (StudyError); from there to `mean_only_below` - 1
    it gets a shift but no scale, which the log says: shift and scale have standard errors of 1 / sqrt(n) and
    1 / sqrt(2 n) SD, i.e. 0.32 and 22 % at n = 10, 0.22 and 16 % at 20. The policy is about centers of a study, not
    about the folds that they are split into: inside resampling `sizes` says how many patients a center has in all.
    """

    def __init__(self, minimum: int = 10, mean_only_below: int = 20, sizes: Mapping[str, int] | None = None) -> None:
        self.minimum = minimum
        self.mean_only_below = mean_only_below
        self.sizes = sizes

    def fit(self, X: pd.DataFrame, y: object = None) -> Self:
        """Fit on the training rows; `y` is there for scikit-learn's pipelines and is never looked at."""
        features, center = self._split(X)
        sizes = center.value_counts(sort=False)
        mean_only = [name for name, n in sorted(sizes.items()) if self._is_small(str(name), int(n))]
        self.combat_ = ComBat(mean_only=mean_only).fit(features, center)
        return self

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:
        check_is_fitted(self, "combat_")
        features, center = self._split(X)
        known = center.isin(list(self.combat_.batches_)).to_numpy()
        values = _values(features, self.combat_.features_)
        if known.any():
            values[known] = self.combat_.transform(features[known], center[known]).to_numpy()
        result = pd.DataFrame(values, index=X.index, columns=self.combat_.features_)
        result.insert(X.columns.get_loc("center"), "center", X["center"])
        return result

    def add_center(self, X_calibration: pd.DataFrame) -> Self:
        """A copy that also harmonizes one new center, from the features of its calibration patients.

        Those patients must not be evaluated; no outcome is involved. See ComBat.add_batch.
        """
        check_is_fitted(self, "combat_")
        features, center = self._split(X_calibration)
        names = sorted(set(center))
        if len(names) != 1:
            raise StudyError(f"ComBat: calibration rows are of {', '.join(names) or 'no center'}; expected one center")
        mean_only = names if self._is_small(names[0], len(center)) else []
        model = copy.copy(self)
        model.combat_ = self.combat_.add_batch(features, names[0], mean_only=mean_only)
        return model

    def _split(self, X: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
        if "center" not in X.columns:
            raise StudyError("ComBat: no column center in the features; expected the center of every patient")
        return X.drop(columns="center"), pd.Series(_batch_names(X, X["center"]), index=X.index)

    def _is_small(self, center: str, n: int) -> bool:
        n = (self.sizes or {}).get(center, n)
        if n < self.minimum:
            raise StudyError(
                f"ComBat: center {center} has {n} patients; expected at least {self.minimum} "
                "(leave the center out, merge it with one of the same scanner, or set the method to none)"
            )
        if n < self.mean_only_below:
            log.info("ComBat: center %s has %d patients: shift only, no scale", center, n)
        return n < self.mean_only_below


def _least_squares(
    values: Array, index: NDArray[np.int64], design: Array, target: int | None
) -> tuple[Array, Array, Array]:
    """Slopes of the covariates, overall mean and residual variance (divisor n) per feature.

    With a `target` batch, mean and variance are those of its rows. The slopes come from deviations from the
    batch means, which is least squares on batches and covariates together (Frisch & Waugh 1933).
    """

    def batch_means(of: Array) -> Array:
        return np.stack([of[index == number].mean(axis=0) for number in range(index.max() + 1)])

    beta: Array = np.zeros((design.shape[1], values.shape[1]))
    if design.shape[1]:
        within = design - batch_means(design)[index]
        beta = np.linalg.lstsq(within, values - batch_means(values)[index])[0].astype(float)
    plain = values - _effect(design, beta)
    means = batch_means(plain)
    squares = (plain - means[index]) ** 2
    if target is None:
        return beta, np.average(means, axis=0, weights=np.bincount(index)), squares.mean(axis=0)
    return beta, means[target], squares[index == target].mean(axis=0)


def _posterior(z: Array, name: str, only_mean: bool, weight: int, *, parametric: bool) -> tuple[Array, Array]:
    """Shift and scale (SD ratio) of one batch, shrunk over its features; `z` is standardized."""
    shift, variance = z.mean(axis=0), np.ones(z.shape[1]) if only_mean else z.var(axis=0, ddof=1)
    if z.shape[1] < 2 or (not only_mean and np.ptp(variance) <= CONSTANT * variance.max()):
        raise StudyError(
            f"ComBat: {z.shape[1]} features vary in center {name}, or all of them alike; "
            "expected at least two different ones, because the priors are estimated over features"
        )
    if not parametric:
        shift, variance = _empirical_posterior(z, shift, variance)
        return shift, np.sqrt(variance)
    prior = shift.mean(), shift.var(ddof=1)
    if only_mean:
        return solvers.postmean(shift, prior[0], weight, 1, prior[1]), variance
    # it_sol measures change relative to the shift and stops at once, silently, on 0 / 0.
    shift = np.where(shift == 0, np.finfo(float).eps, shift)
    a, b = solvers.aprior(variance), solvers.bprior(variance)
    shift, variance = solvers.it_sol(z.T, shift, variance, *prior, a, b)
    return shift, np.sqrt(variance)


def _empirical_posterior(z: Array, shift: Array, variance: Array) -> tuple[Array, Array]:
    """Posterior means under the empirical prior: each feature weighs the shifts and variances of all others.

    In place of neuroCombat's int_eprior (and sva's int.eprior), whose likelihoods underflow to 0 / 0 from
    some 500 patients: logarithms do not. Sums of squares need only each feature's mean and spread.
    """
    n, around = len(z), ((z - z.mean(axis=0)) ** 2).sum(axis=0)
    posterior = np.empty((2, z.shape[1]))
    for i, center in enumerate(z.mean(axis=0)):
        likelihood = -n / 2 * np.log(variance) - (around[i] + n * (center - shift) ** 2) / (2 * variance)
        likelihood[i] = -np.inf
        weights = softmax(likelihood)
        posterior[:, i] = (weights * shift).sum(), (weights * variance).sum()
    return posterior[0], posterior[1]


def _feature_names(X: pd.DataFrame) -> list[str]:
    twice = X.columns[X.columns.duplicated()]
    if len(twice):
        raise StudyError(f"ComBat: feature {twice[0]} appears twice; expected every feature once")
    return [str(name) for name in X.columns.tolist()]


def _values(X: pd.DataFrame, features: list[str]) -> Array:
    """The features as a fresh float array in the order of the fit; every cell finite."""
    found = _feature_names(X)
    if found != features:
        missing, foreign = set(features) - set(found), set(found) - set(features)
        for odd, what in ((missing, "is missing"), (foreign, "is not in the fit")):
            if odd:
                raise StudyError(f"ComBat: feature {min(odd)} {what} ({len(odd)} in all); expected those of the fit")
        X = X.set_axis(found, axis=1)[features]
    text = [place for place, kind in enumerate(X.dtypes) if kind.kind not in "fiub"]
    if text:
        place = text[0]
        raise StudyError(f"ComBat: feature {features[place]} is of type {X.dtypes.iloc[place]}; expected numbers")
    values = X.to_numpy(dtype=float, na_value=np.nan, copy=True)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = bad[0]
        raise StudyError(
            f"ComBat: feature {features[column]} of patient {X.index[row]} is {values[row, column]} "
            f"({len(bad)} such cells); expected finite numbers, imputed before"
        )
    return values


def _batch_names(X: pd.DataFrame, batch: pd.Series) -> NDArray[np.str_]:
    if not X.index.equals(batch.index):
        raise StudyError("ComBat: batch and features have different row labels; expected the same patients in order")
    if batch.isna().any():
        raise StudyError(
            f"ComBat: patient {batch.index[batch.isna()][0]} has no center; expected one for every patient"
        )
    return batch.astype(str).to_numpy(dtype=str)


def varies(values: Array) -> NDArray[np.bool_]:
    """Which columns hold more than one number, rounding apart."""
    return np.ptp(values, axis=0) > CONSTANT * np.abs(values).max(axis=0)


def _effect(design: Array, beta: Array) -> Array:
    """design @ beta, added up column by column so that a row's last bit does not depend on the other rows."""
    effect = np.zeros((len(design), beta.shape[1]))
    for column, slope in zip(design.T, beta, strict=True):
        effect += column[:, None] * slope
    return effect


def _describe_covariates(X: pd.DataFrame, covariates: pd.DataFrame | None) -> list[dict[str, Any]]:
    """How each covariate becomes columns: categories ([]: a number) and the training mean of each column."""
    described: list[dict[str, Any]] = []
    for name, column in ({} if covariates is None else covariates).items():
        numeric = pd.api.types.is_numeric_dtype(column.dtype)
        levels = [] if numeric else sorted(column.dropna().astype(str).unique())
        described.append({"name": str(name), "levels": levels, "center": [0.0] * max(len(levels) - 1, 1)})
        if len(levels) == 1 or not varies(columns := _encode(X, column.to_frame(), described[-1:])).all():
            raise StudyError(f"ComBat: covariate {name} is constant; expected one that varies")
        described[-1]["center"] = columns.mean(axis=0).tolist()
    return described


def _encode(X: pd.DataFrame, covariates: pd.DataFrame | None, described: list[dict[str, Any]]) -> Array:
    """Covariates as centered columns, categories as indicators of all but the first."""
    table = pd.DataFrame(index=X.index) if covariates is None else covariates
    if sorted(map(str, table.columns)) != sorted(each["name"] for each in described):
        found, expected = (", ".join(n) or "none" for n in (table.columns, [each["name"] for each in described]))
        raise StudyError(f"ComBat: the covariates are {found}; the fit has {expected}")
    if not X.index.equals(table.index):
        raise StudyError("ComBat: covariates and features have different row labels; expected the same patients")
    columns = [np.empty((len(X), 0))]
    for each in described:
        values, levels = table[each["name"]], each["levels"]
        if levels:
            wrong = ~values.astype(str).isin(levels).to_numpy() | values.isna().to_numpy()
            column = (values.astype(str).to_numpy()[:, None] == np.array(levels[1:])).astype(float)
        else:
            numbers = pd.to_numeric(values, errors="coerce")
            column = numbers.to_numpy(dtype=float, na_value=np.nan)[:, None]
            wrong = ~np.isfinite(column[:, 0])
        if wrong.any():
            expected = f"one of {', '.join(levels)}" if levels else "a finite number"
            cell = f"covariate {each['name']} of patient {X.index[wrong][0]} is {values[wrong].iloc[0]}"
            raise StudyError(f"ComBat: {cell}; expected {expected}")
        columns.append(column - np.array(each["center"]))
    return np.hstack(columns)


def _check_confounding(index: NDArray[np.int64], design: Array, described: list[dict[str, Any]]) -> None:
    if not design.shape[1]:
        return
    full = np.hstack([np.eye(index.max() + 1)[index], design])
    condition = np.linalg.cond(full / np.linalg.norm(full, axis=0))
    if condition > CONDITION:
        names = ", ".join(each["name"] for each in described)
        raise StudyError(
            f"ComBat: covariates {names} are confounded with the centers or each other (condition number "
            f"{condition:.3g}); expected at most {CONDITION}"
        )


def _check_parameters(parameters: Mapping[str, Any]) -> None:
    """Complete, one finite number a feature everywhere, spreads above 0: what a fit writes, and no less."""
    batches: Mapping[str, Any] = parameters.get("batches") or {}
    holders: dict[str, tuple[Mapping[str, Any], tuple[str, ...]]] = {"the parameters": (parameters, PARAMETERS)}
    holders |= {f"center {name}": (batch, BATCH) for name, batch in batches.items()}
    for name, (holder, expected) in holders.items():
        if absent := [key for key in expected if key not in holder]:
            raise StudyError(f"ComBat: no {', '.join(absent)} in {name}; expected {', '.join(expected)}")
    features = parameters["features"]
    slopes = sum(len(each["center"]) for each in parameters["covariates"])
    if len(parameters["beta"]) != slopes:
        raise StudyError(f"ComBat: beta has {len(parameters['beta'])} rows; expected {slopes}, one a covariate column")
    arrays = {name: parameters[name] for name in ("mean", "sd", "target_mean", "target_sd")}
    arrays |= {f"beta {number}": row for number, row in enumerate(parameters["beta"])}
    arrays |= {f"{part} of center {name}": batches[name][part] for name in batches for part in ("shift", "scale")}
    for name, numbers in arrays.items():
        if len(numbers) != len(features):
            raise StudyError(f"ComBat: {name} has {len(numbers)} numbers; expected {len(features)}, one a feature")
        positive = name.startswith(("sd", "target_sd", "scale"))
        for feature, value in zip(features, numbers, strict=True):
            fine = isinstance(value, int | float) and np.isfinite(value) and (value > 0 or not positive)
            if not fine:
                kind = "a number above 0" if positive else "a finite number"
                raise StudyError(f"ComBat: {name} for feature {feature} is {value}; expected {kind}")


def _to_json(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return {key: _to_json(part) for key, part in value.items()} if isinstance(value, dict) else value
