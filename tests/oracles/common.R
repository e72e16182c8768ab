# Shared by the oracle scripts: files in and out, calibration from pseudo-values, spline curves.
suppressPackageStartupMessages({library(survival); library(geepack); library(prodlim); library(riskRegression)})

QUICK <- coxph.control(eps = 1e-11, toler.chol = 1e-13, iter.max = 50)
EXACT <- glm.control(epsilon = 1e-14, maxit = 100)
GEESE <- geese.control(epsilon = 1e-13, maxit = 200)  # geese's own 1e-4 leaves six digits
THRESHOLDS <- c(.1, .2, .3, .4)

clamp <- function(x, low, high) pmin(pmax(x, low), high)
cloglog <- function(risk) log(-log1p(-risk))
log_odds <- function(risk) log(risk / (1 - risk))

store <- function(data, file) {  # the oracle reads what the tests read
  connection <- if (endsWith(file, ".gz")) gzfile(file, "wt") else file(file, "wt")
  write.csv(data, connection, row.names = FALSE, quote = FALSE); close(connection)
  read.csv(file, check.names = FALSE)
}
expect <- function(values, file) {
  jsonlite::write_json(values, file, digits = NA, auto_unbox = TRUE, pretty = TRUE, na = "null", null = "null")
}
agree <- function(a, b, tolerance = 1e-10) stopifnot(all(is.finite(a)), max(abs(a - b)) < tolerance)

# Restricted cubic spline with knots at the 10th, 50th and 90th percentile (type 7)
spline3 <- function(x) {
  knots <- quantile(x, c(.1, .5, .9), names = FALSE)
  list(knots = knots, basis = Hmisc::rcspline.eval(x, knots = knots, norm = 2, inclx = TRUE))
}
distances <- function(observed, risk) {
  d <- abs(observed - risk)
  list(ici = mean(d), e50 = quantile(d, .5, names = FALSE), e90 = quantile(d, .9, names = FALSE), emax = max(d))
}

# Calibration by pseudo-values: van Geloven et al. BMJ 2022, least squares on the cloglog scale
pseudo_calibration <- function(pseudo, risk) {
  d <- data.frame(pseudo = pseudo, cll = cloglog(risk), id = seq_along(risk))
  spline <- spline3(d$cll)
  d$s1 <- spline$basis[, 1]; d$s2 <- spline$basis[, 2]
  fit <- function(formula) geese(formula, data = d, id = id, scale.fix = TRUE, family = gaussian,
                                 mean.link = "cloglog", corstr = "independence", control = GEESE)
  intercept <- fit(pseudo ~ offset(cll)); slope <- fit(pseudo ~ offset(cll) + cll); curve <- fit(pseudo ~ s1 + s2)
  se <- function(f, i) sqrt(f$vbeta[i, i])
  smoothed <- 1 - exp(-exp(cbind(1, spline$basis) %*% curve$beta))[, 1]
  c(list(intercept = unname(intercept$beta), intercept_se = se(intercept, 1),
         slope = 1 + unname(slope$beta[2]), slope_se = se(slope, 2), slope_model_intercept = unname(slope$beta[1]),
         curve_beta = unname(curve$beta), knots_cloglog = spline$knots), distances(smoothed, risk))
}
jackknife_values <- function(n, estimate) {  # estimate(rows) -> vector per horizon; returns n x horizons
  whole <- estimate(seq_len(n))
  t(sapply(seq_len(n), function(i) n * whole - (n - 1) * estimate(-i)))
}

# Censoring survival with events before censorings at equal times (prodlim's reverse = TRUE): G(t) and G(t-)
censoring <- function(time, censored) {
  times <- sort(unique(time))
  factor <- sapply(times, function(t) {
    k <- sum(time == t & censored)
    if (k == 0) 1 else 1 - k / (sum(time > t) + k)
  })
  surv <- cumprod(factor)
  list(at = function(t) c(1, surv)[findInterval(t, times) + 1],
       before = function(t) c(1, surv)[findInterval(t, times, left.open = TRUE) + 1])
}
net_benefit <- function(risk, observed_among) {
  t(sapply(THRESHOLDS, function(th) {
    benefit <- function(treated) {
      if (!any(treated)) return(0)
      o <- observed_among(treated); mean(treated) * (o - (1 - o) * th / (1 - th))
    }
    c(model = benefit(risk >= th), all = benefit(rep(TRUE, length(risk))))
  }))
}
score_table <- function(s, what) as.data.frame(s[[what]]$score)
