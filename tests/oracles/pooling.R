# Pooled logit C-indices of centers: REML random effects, confidence and prediction intervals. Adjusted p values.
source("common.R"); suppressPackageStartupMessages({library(metafor)})

examples <- list(
  five = list(c = c(.71, .66, .78, .62, .74), sei = c(.11, .16, .14, .12, .21)),
  homogeneous = list(c = c(.70, .71, .69, .705, .70), sei = c(.12, .15, .20, .18, .14)),
  three = list(c = c(.64, .75, .69), sei = c(.10, .13, .17)))
TIGHT <- list(threshold = 1e-12, maxiter = 10000)

pool <- function(yi, sei, test) {
  f <- rma(yi, sei = sei, method = "REML", test = test, control = TIGHT); p <- predict(f); r <- predict(f,
      pi.type = "riley")
  list(estimate = as.numeric(f$beta), se = f$se, statistic = f$zval, p = f$pval, lower = p$ci.lb, upper = p$ci.ub,
      prediction_lower = p$pi.lb, prediction_upper = p$pi.ub,
       df = if (test == "knha") f$dfs else NULL, riley_prediction_lower = r$pi.lb, riley_prediction_upper = r$pi.ub,
       tau2 = f$tau2, tau2_se = f$se.tau2, i2 = f$I2, h2 = f$H2, q = f$QE, q_p = f$QEp)
}
pooled <- lapply(examples, function(e) {
  yi <- log_odds(e$c)
  list(yi = yi, sei = e$sei, knha = pool(yi, e$sei, "knha"), z = pool(yi, e$sei, "z"))
})
stopifnot(pooled$homogeneous$z$tau2 == 0, pooled$five$z$tau2 > 0, pooled$three$z$tau2 > 0)
# what rma and predict are documented to do: t with k - 1 degrees of freedom, tau2 + se^2; riley: t with k - 2
k <- pooled$five$knha
agree(k$prediction_upper, k$estimate + qt(.975, 4) * sqrt(k$tau2 + k$se^2)); agree(k$riley_prediction_upper,
    k$estimate + qt(.975, 3) * sqrt(k$tau2 + k$se^2))

p <- c(.0004, .003, .003, .011, .02, .026, .04, .21, .5, .97)[c(4, 1, 8, 2, 10, 6, 3, 9, 5, 7)]
expect(c(pooled, list(adjust = list(p = p, holm = p.adjust(p, "holm"), bh = p.adjust(p, "BH"),
    bonferroni = p.adjust(p, "bonferroni")))), "pooling.json")
