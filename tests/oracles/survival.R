# Censored outcome, months with ties: every figure at 12 and 24 months, and the Brier score at months 1 to 30.
source("common.R")
HORIZONS <- c(12, 24); MONTHS <- 1:30

set.seed(20260501); n <- 400
x <- rnorm(n); z <- rnorm(n); group <- sample(c("a", "b", "c"), n, TRUE, c(.3, .4, .3))
event_time <- 30 * (-log(runif(n)) / exp(.7 * x + .5 * z + .5 * (group == "c")))^(1 / 1.2)
censor_time <- pmin(runif(n, 4, 70), 60)
lp <- round(x + .1 * rnorm(n), 2); lp_b <- round(.6 * z + .2 * rnorm(n), 2)
curves <- round(clamp(exp(-outer(exp(lp), .035 * MONTHS)), .01, .99), 2)
risk_b <- function(month) clamp(round(1 - exp(-exp(.6 * lp + .7 * lp_b) * month / 35), 2), .01, .99)
d <- store(data.frame(patient = seq_len(n), time = ceiling(pmin(event_time, censor_time)),
    event = as.integer(event_time <= censor_time),
                      group, lp, lp_b, risk_12 = 1 - curves[, 12], risk_24 = 1 - curves[, 24], risk_b_12 = risk_b(12),
                          risk_b_24 = risk_b(24)),
           "survival.csv")
curves <- as.matrix(store(setNames(data.frame(seq_len(n), curves), c("patient", MONTHS)), "survival_curves.csv.gz")[,
    -1])
stopifnot(all(HORIZONS %in% d$time[d$event == 1]), all(HORIZONS %in% d$time[d$event == 0]), max(d$time) > 30)

kaplan_meier <- function(d, times = HORIZONS) 1 - summary(survfit(Surv(time, event) ~ 1, data = d), times = times,
    extend = TRUE)$surv
followed <- function(d, horizon) max(d$time) >= horizon
concord <- function(tau, weight) {
  f <- concordance(Surv(time, event) ~ lp, data = d, reverse = TRUE, timewt = weight, ymax = tau)
  list(c = f$concordance, se = sqrt(f$var), counts = as.list(f$count))
}
cox_calibration <- function(risk, horizon) {
  spline <- spline3(cloglog(risk)); b <- data.frame(s1 = spline$basis[, 1], s2 = spline$basis[, 2])
  fit <- coxph(Surv(time, event) ~ s1 + s2, data = cbind(d, b), control = QUICK, x = TRUE)
  smoothed <- 1 - summary(survfit(fit, newdata = b), times = horizon)$surv[1, ]
  c(list(beta = unname(coef(fit)), knots_cloglog = spline$knots), distances(smoothed, risk))
}

score <- Score(list(a = as.matrix(d[c("risk_12", "risk_24")]), b = as.matrix(d[c("risk_b_12", "risk_b_24")])),
               formula = Surv(time, event) ~ 1, data = d, times = HORIZONS, cens.model = "km", summary = "ipa",
                   metrics = c("auc", "brier"))
auc <- score_table(score, "AUC"); brier <- score_table(score, "Brier")
difference <- function(what, h) {
  t <- as.data.frame(score[[what]]$contrasts); t <- t[t$times == h & t$model == "b" & t$reference == "a", ]
  list(estimate = t[[paste0("delta.", what)]], se = t$se, lower = t$lower, upper = t$upper, p = t$p)
}
pseudo <- jackknife_values(n, function(rows) kaplan_meier(d[rows, ]))
agree(pseudo, 1 - prodlim::jackknife(prodlim::prodlim(Hist(time, event) ~ 1, data = d), times = HORIZONS))
G <- censoring(d$time, d$event == 0)

# Uno's C: survival weights i's pairs by G(T_i-)^-2, G with events first;
# j censored at the time of i's event has outlived it
uno <- function(tau) {
  sums <- sapply(which(d$event == 1 & d$time <= tau), function(i) {
    j <- d$time > d$time[i] | (d$time == d$time[i] & d$event == 0)
    c(sum((d$lp[i] > d$lp[j]) + .5 * (d$lp[i] == d$lp[j])), sum(j)) / G$before(d$time[i])^2
  })
  sum(sums[1, ]) / sum(sums[2, ])
}
agree(sapply(c(HORIZONS, max(d$time)), uno), sapply(c(HORIZONS, max(d$time)), function(tau) concord(tau, "n/G2")$c))

out <- list()
for (h in HORIZONS) {
  risk <- d[[paste0("risk_", h)]]; km <- summary(survfit(Surv(time, event) ~ 1, data = d), times = h)
  row <- function(table, model) table[table$times == h & table$model == model, ]
  weight <- ifelse(d$time > h, 1 / G$at(h), ifelse(d$event == 0, 0, 1 / G$before(d$time)))
  case <- d$time <= h & d$event == 1
  agree(c(mean(weight * (case - risk)^2), mean(weight * (case - (1 - km$surv))^2)), c(row(brier, "a")$Brier,
      row(brier, "Null model")$Brier))
  overall <- function(m) list(auc = row(auc, m)$AUC, auc_se = row(auc, m)$se, brier = row(brier, m)$Brier,
      brier_se = row(brier, m)$se, ipa = row(brier, m)$IPA)
  k <- match(h, HORIZONS)
  out[[paste0("h", h)]] <- list(
    events = sum(case), at_horizon = list(event = sum(d$time == h & d$event == 1),
        censored = sum(d$time == h & d$event == 0)),
    g_at_horizon = G$at(h), g_before_horizon = G$before(h), observed = 1 - km$surv, observed_se = km$std.err,
        mean_risk = mean(risk), oe = (1 - km$surv) / mean(risk),
    brier_null = row(brier, "Null model")$Brier, model_a = overall("a"), model_b = overall("b"),
    delta_auc = difference("AUC", h), delta_brier = difference("Brier", h),
    harrell = concord(h, "n"), uno = concord(h, "n/G2"),
    calibration_cox = cox_calibration(risk, h), pseudo_first20 = pseudo[1:20, k], pseudo_mean = mean(pseudo[, k]),
        pseudo_sumsq = sum(pseudo[, k]^2),
    calibration_pseudo = pseudo_calibration(pseudo[, k], risk),
    net_benefit = list(thresholds = THRESHOLDS, values = as.data.frame(net_benefit(risk, function(treated) {
      stopifnot(followed(d[treated, ], h)); kaplan_meier(d[treated, ], h) }))))
}

monthly <- Score(list(a = 1 - curves), formula = Surv(time, event) ~ 1, data = d, times = MONTHS, cens.model = "km",
    summary = c("ipa", "ibs"), metrics = "brier", se.fit = FALSE)
b <- score_table(monthly, "Brier"); series <- function(m,
    column = "Brier") b[[column]][b$model == m][order(b$times[b$model == m])]
trapezoid <- function(y) sum((y[-1] + y[-length(y)]) / 2) / (length(y) - 1)
agree(series("a")[HORIZONS], sapply(out, function(o) o$model_a$brier))
slope <- coxph(Surv(time, event) ~ lp, data = d, control = QUICK)
both <- coxph(Surv(time, event) ~ lp + lp_b, data = d, control = QUICK)
reverse <- survfit(Surv(time, 1 - event) ~ 1, data = d); rank <- survdiff(Surv(time, event) ~ group, data = d)
expect(c(out, list(
  harrell = concord(NULL, "n"), uno = concord(NULL, "n/G2"),
  slope = list(slope = unname(coef(slope)), se = sqrt(vcov(slope)[1])),
  brier_by_month = series("a"), brier_null_by_month = series("Null model"), ibs = trapezoid(series("a")),
      ibs_null = trapezoid(series("Null model")),
  ibs_riskregression_information = series("a", "IBS")[30],
  follow_up = list(median_events_first = min(d$time[G$at(d$time) <= .5]),
                   survfit_median = unname(quantile(reverse, .5)$quantile), survfit_g_12 = summary(reverse,
                       times = 12)$surv, survfit_g_24 = summary(reverse, times = 24)$surv),
  logrank = list(chisq = rank$chisq, p = pchisq(rank$chisq, 2, lower.tail = FALSE), n = as.vector(rank$n),
      observed = rank$obs, expected = rank$exp),
  cox_likelihood_ratio = list(chisq = 2 * (both$loglik[2] - slope$loglik[2]), df = 1,
      p = pchisq(2 * (both$loglik[2] - slope$loglik[2]), 1, lower.tail = FALSE),
                              loglik_null = slope$loglik[1], loglik_lp = slope$loglik[2],
                                  loglik_both = both$loglik[2], beta_both = unname(coef(both))))),
  "survival.json")
