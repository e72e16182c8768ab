# Optimism of models fitted on 15 weak or null covariates in 120 patients: the bootstrap of Harrell, and .632+.
source("common.R"); suppressPackageStartupMessages(library(rms))
B <- 1000; N <- 120; P <- 15; X <- paste0("x", seq_len(P))

covariates <- function(n) {
  x <- cbind(matrix(rbinom(n * 5, 1, .5), n), matrix(round(rnorm(n * 10), 1), n))
  colnames(x) <- X; x
}
signal <- function(x) .8 * x[, 6] + .5 * (x[, 1] - .5)
binary <- function(n) { x <- covariates(n); cbind(data.frame(patient = seq_len(n), y = rbinom(n, 1,
    plogis(signal(x)))), x) }
censored <- function(n) {
  x <- covariates(n); event <- -log(runif(n)) / (.03 * exp(signal(x))); censor <- runif(n, 6, 60)
  cbind(data.frame(patient = seq_len(n), time = ceiling(pmin(event, censor)), event = as.integer(event <= censor)), x)
}
c_binary <- function(p, d) concordance(d$y ~ p)$concordance
c_survival <- function(lp, d) concordance(Surv(time, event) ~ lp, data = d, reverse = TRUE)$concordance
matrix_of <- function(d) as.matrix(d[X])
logistic <- function(d) { f <- lrm.fit(matrix_of(d), d$y, maxit = 50, eps = 1e-9, tol = 1e-14)
if (f$fail) NULL else coef(f) }
cox <- function(d) coef(coxph(reformulate(X, "Surv(time, event)"), data = d))
lp_binary <- function(b, d) drop(cbind(1, matrix_of(d)) %*% b)
lp_survival <- function(b, d) drop(matrix_of(d) %*% b)

# apparent - (apparent in the resample - the resample's model on the original), with its Monte-Carlo error
harrell <- function(d, fit, lp, c_index, slope) {
  whole <- fit(d); apparent <- c(c = c_index(lp(whole, d), d), slope = 1)
  draws <- matrix(NA_real_, B, 2)
  for (b in seq_len(B)) {
    r <- d[sample.int(nrow(d), replace = TRUE), ]
    model <- tryCatch(fit(r), error = function(e) NULL, warning = function(w) NULL)
    if (is.null(model)) next
    draws[b, ] <- c(c_index(lp(model, r), r) - c_index(lp(model, d), d), 1 - slope(lp(model, d), d))
  }
  draws <- draws[complete.cases(draws), ]
  optimism <- colMeans(draws)
  list(apparent = as.list(apparent), optimism = list(c = optimism[1], slope = optimism[2]),
       corrected = list(c = apparent[[1]] - optimism[1], slope = 1 - optimism[2]),
       monte_carlo_se = list(c = sd(draws[, 1]) / sqrt(nrow(draws)), slope = sd(draws[, 2]) / sqrt(nrow(draws))),
       resamples = nrow(draws), coefficients = unname(whole))
}
validated <- function(v) {
  pick <- function(row, column) unname(v[row, column])
  out <- lapply(c(apparent = "index.orig", training = "training", test = "test", optimism = "optimism",
      corrected = "index.corrected"),
                function(column) list(dxy = pick("Dxy", column), slope = pick("Slope", column)))
  for (column in c("apparent", "corrected")) out[[column]]$c <- (out[[column]]$dxy + 1) / 2
  out$optimism$c <- out$optimism$dxy / 2
  c(out, list(resamples = pick("Dxy", "n")))
}

# Efron and Tibshirani 1997. AUC: mean over resamples of the AUC of the left out, no information = .5.
# Brier: mean over patients of the mean over the resamples that left them out; no information = all pairs (y, p).
plus632 <- function(apparent, out, none) {
  rate <- clamp((out - apparent) / (none - apparent), 0, 1)
  weight <- .632 / (1 - .368 * rate)
  bounded <- if (apparent < none) min(out, none) else max(out, none)
  list(apparent = apparent, out_of_bag = out, no_information = none, relative_overfitting = rate, weight = weight,
       estimate_632 = .368 * apparent + .632 * out, estimate_632plus = (1 - weight) * apparent + weight * bounded)
}
left_out <- function(d) {
  whole <- logistic(d); p <- plogis(lp_binary(whole, d))
  auc <- rep(NA_real_, B); loss <- matrix(NA_real_, B, nrow(d))
  for (b in seq_len(B)) {
    rows <- sample.int(nrow(d), replace = TRUE); out <- setdiff(seq_len(nrow(d)), rows)
    model <- tryCatch(logistic(d[rows, ]), error = function(e) NULL, warning = function(w) NULL)
    if (is.null(model)) next
    q <- plogis(lp_binary(model, d[out, ]))
    auc[b] <- c_binary(q, d[out, ]); loss[b, out] <- (d$y[out] - q)^2
  }
  list(auc = c(plus632(c_binary(p, d), mean(auc, na.rm = TRUE), .5), list(out_of_bag_monte_carlo_se = sd(auc,
      na.rm = TRUE) / sqrt(sum(!is.na(auc))))),
       brier = c(plus632(mean((d$y - p)^2), mean(colMeans(loss, na.rm = TRUE)), mean(outer(d$y, p, function(y,
           p) (y - p)^2))),
                 list(out_of_bag_monte_carlo_se = sd(rowMeans(loss, na.rm = TRUE),
                     na.rm = TRUE) / sqrt(sum(!is.na(auc))))),
       resamples = sum(!is.na(auc)))
}

set.seed(20260701)
b <- store(binary(N), "optimism_binary.csv"); s <- store(censored(N), "optimism_survival.csv")
formula_b <- reformulate(X, "y"); formula_s <- reformulate(X, "Surv(time, event)")
v_b <- validated(validate(lrm(formula_b, data = b, x = TRUE, y = TRUE), B = B, bw = FALSE))
v_s <- validated(validate(cph(formula_s, data = s, x = TRUE, y = TRUE), B = B, bw = FALSE))
own_b <- harrell(b, logistic, lp_binary, c_binary, function(lp, d) coef(glm(d$y ~ lp, family = binomial))[[2]])
own_s <- harrell(s, cox, lp_survival, c_survival, function(lp, d) coef(coxph(Surv(time, event) ~ lp, data = d))[[1]])
for (pair in list(list(v_b, own_b), list(v_s, own_s))) for (m in c("c", "slope")) {  # two runs of the same bootstrap
  agree(pair[[1]]$corrected[[m]], pair[[2]]$corrected[[m]], 5 * sqrt(2) * pair[[2]]$monte_carlo_se[[m]])
}
agree(v_b$apparent$c, own_b$apparent$c); agree(v_s$apparent$c, own_s$apparent$c, 1e-3)
new_b <- binary(2e5); new_s <- censored(2e5)  # what the fitted models are truly worth
expect(list(
  events = list(binary = sum(b$y), survival = sum(s$event)),
  binary = list(rms_validate = v_b, bootstrap = own_b, plus632 = left_out(b),
                truth = list(c = c_binary(lp_binary(own_b$coefficients, new_b), new_b),
                             slope = coef(glm(new_b$y ~ lp_binary(own_b$coefficients, new_b),
                                 family = binomial))[[2]])),
  survival = list(rms_validate = v_s, bootstrap = own_s,
                  truth = list(c = c_survival(lp_survival(own_s$coefficients, new_s), new_s),
                               slope = coef(coxph(Surv(time, event) ~ lp_survival(own_s$coefficients, new_s),
                                   data = new_s))[[1]]))),
  "optimism.json")
