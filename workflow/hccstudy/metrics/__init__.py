"""The evaluation engine: arrays in, values out.

One habit runs through the package: a *resample* of the patients is a row of counts (how often each row of the
table was drawn), and every metric takes `counts` of shape (resamples, n) and returns one value per resample.
A row of ones is the table as it is, so that estimate and bootstrap come out of the same call, without a loop
over resamples. NaN means that the metric is undefined in that resample; `sheet.Sheet` turns it into a refusal
with a reason or counts it.

survival        Kaplan-Meier, follow-up, log-rank, censoring weights
discrimination  AUC (DeLong), Harrell's and Uno's C, AUC(t), multiclass AUC
calibration     O/E, calibration in the large, slope, smooth curves, ICI, groups
overall         Brier score and its scaled form, accuracy, kappa
net_benefit     decision curves, binary and censored
regression      unpenalized logistic and Cox (Efron) fits for all resamples at once
sheet           estimates with their intervals, or the reason why there is none
sets            everything that is said about one evaluated set of patients
"""
