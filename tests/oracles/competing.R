# Competing risks: discrimination, calibration and net benefit of absolute risks at 12 and 24 months.
source("common.R")
HORIZONS <- c(12, 24)

simulate <- function(seed, grid) {
  set.seed(seed); n <- 500
  x <- rnorm(n); z <- rnorm(n); w <- rbinom(n, 1, .4)
  first <- -log(runif(n)) / (.020 * exp(.8 * x + .5 * w)); other <- -log(runif(n)) / (.012 * exp(.5 * z + .3 * w))
  censor <- pmin(runif(n, 3, 70), 60)
  time <- pmin(first, other, censor); status <- ifelse(censor == time, 0, ifelse(first == time, 1, 2))
  risk <- function(scale, noise) clamp(round(1 - exp(-scale * exp(1.2 * x + .3 * z + noise * rnorm(n))), 3), .005, .97)
  data.frame(patient = seq_len(n), time = if (grid) ceiling(time) else round(time, 4), status = status,
             risk_12 = risk(.24, .3), risk_24 = risk(.36, .4))
}

aalen_johansen <- function(d) {
  s <- summary(survfit(Surv(time, factor(status, 0:2)) ~ 1, data = d), times = HORIZONS, extend = FALSE)
  list(cif = s$pstate[, 2], se = s$std.err[, 2], competing = s$pstate[, 3])
}

# Wolbers et al. 2014: i has the event by the horizon; j is at risk after it, or had a competing event before.
# "harrell" counts pairs; "ipcw" weights them; j censored at the very time of i's event has outlived it.
# "ipcw_strict" leaves such a j out and weights the others by G(T_i) (the printed formula; pec).
wolbers <- function(d, risk, horizon) {
  G <- censoring(d$time, d$status == 0)
  sums <- c(harrell = 0, ipcw = 0, ipcw_strict = 0); hits <- sums; pairs <- 0
  for (i in which(d$status == 1 & d$time <= horizon)) {
    t <- d$time[i]; gi <- G$before(t)
    for (j in seq_len(nrow(d))[-i]) {
      later <- d$time[j] > t; outlived <- later || (d$time[j] == t && d$status[j] == 0)
      competed <- d$status[j] == 2 && d$time[j] <= t
      if (!outlived && !competed) next
      weight <- if (competed) rep(1 / (gi * G$before(d$time[j])), 2) else c(1 / gi^2,
          if (later) 1 / (gi * G$at(t)) else 0)
      weight <- c(1, weight); pairs <- pairs + 1
      sums <- sums + weight
      hits <- hits + weight * ((risk[i] > risk[j]) + .5 * (risk[i] == risk[j]))
    }
  }
  list(c = hits / sums, pairs = pairs)
}

assess <- function(file, d) {
  d <- store(d, file)
  risks <- as.matrix(d[c("risk_12", "risk_24")])
  aj <- aalen_johansen(d)
  pseudo <- jackknife_values(nrow(d), function(rows) aalen_johansen(d[rows, ])$cif)
  agree(pseudo, prodlim::jackknife(prodlim::prodlim(prodlim::Hist(time, status) ~ 1, data = d), times = HORIZONS,
      cause = 1))
  s <- Score(list(model = risks), formula = Hist(time, status) ~ 1, data = d, times = HORIZONS, cause = 1,
             cens.model = "km", summary = "ipa", metrics = c("auc", "brier"))
  auc <- score_table(s, "AUC"); brier <- score_table(s, "Brier")
  G <- censoring(d$time, d$status == 0)
  out <- list()
  for (k in seq_along(HORIZONS)) {
    h <- HORIZONS[k]; risk <- risks[, k]
    weight <- ifelse(d$time > h, 1 / G$at(h), ifelse(d$status == 0, 0, 1 / G$before(d$time)))
    case <- d$time <= h & d$status == 1
    mine <- c(mean(weight * (case - risk)^2), mean(weight * (case - aj$cif[k])^2))
    agree(mine, brier$Brier[brier$times == h][match(c("model", "Null model"), brier$model[brier$times == h])])
    w <- which(case); v <- which(!case & weight > 0)
    above <- outer(risk[w], risk[v], function(a, b) (a > b) + .5 * (a == b)) * outer(weight[w], weight[v])
    agree(sum(above) / sum(outer(weight[w], weight[v])), auc$AUC[auc$times == h & auc$model == "model"])
    b <- brier[brier$times == h & brier$model == "model", ]; a <- auc[auc$times == h & auc$model == "model", ]
    pairs <- wolbers(d, risk, h)
    # the same by survival: competing events never leave, events after the horizon do not start a pair
    forever <- ifelse(d$status == 2, 1e6, d$time)
    agree(pairs$c["harrell"], concordance(Surv(forever, d$status == 1) ~ risk, reverse = TRUE, ymax = h)$concordance)
    pec <- suppressWarnings(pec::cindex(list(m = matrix(risk)), formula = Hist(time, status) ~ 1, data = d,
        eval.times = h, pred.times = h, cause = 1, cens.model = "marginal", verbose = FALSE))
    out[[paste0("h", h)]] <- list(
      n = nrow(d), events = sum(case), competing = sum(d$time <= h & d$status == 2),
          censored_before = sum(d$time < h & d$status == 0),
      at_horizon = list(event = sum(d$time == h & d$status == 1), competing = sum(d$time == h & d$status == 2),
          censored = sum(d$time == h & d$status == 0)),
      cif = aj$cif[k], cif_se = aj$se[k], cif_competing = aj$competing[k],
      mean_risk = mean(risk), oe = aj$cif[k] / mean(risk), g_at_horizon = G$at(h), g_before_horizon = G$before(h),
      auc = a$AUC, auc_se = a$se, brier = b$Brier, brier_se = b$se, brier_null = mine[2], ipa = 1 - b$Brier / mine[2],
      wolbers = c(as.list(pairs$c), list(pairs = pairs$pairs, pec_ipcw = unname(pec$AppCindex$m))),
      pseudo_first20 = pseudo[1:20, k], pseudo_mean = mean(pseudo[, k]), pseudo_sumsq = sum(pseudo[, k]^2),
      calibration = pseudo_calibration(pseudo[, k], risk),
      net_benefit = list(thresholds = THRESHOLDS, values = as.data.frame(net_benefit(risk,
          function(treated) aalen_johansen(d[treated, ])$cif[k]))))
  }
  stopifnot(all.equal(unname(sapply(out, `[[`, "ipa")), brier$IPA[brier$model == "model"]))
  out
}

grid <- simulate(20260401, TRUE)
stopifnot(all(sapply(0:2, function(s) all(HORIZONS %in% grid$time[grid$status == s]))))
continuous <- simulate(20260402, FALSE)
expect(list(months = assess("competing.csv", grid), continuous = assess("competing_continuous.csv", continuous)),
       "competing.json")
