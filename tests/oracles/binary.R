# Binary and three-class outcomes: comparing two models (DeLong, NRI, IDI, likelihood ratio), calibration, agreement.
source("common.R"); suppressPackageStartupMessages(library(pROC))

set.seed(20260601); n <- 300
x <- matrix(round(rnorm(n * 3), 2), n); y <- rbinom(n, 1, plogis(-.6 + .9 * x[, 1] + .6 * x[, 2]))
p_a <- clamp(round(plogis(-.3 + 1.2 * x[, 1] + .3 * rnorm(n)), 3), .005, .995)
p_b <- clamp(round(plogis(-.5 + 1.1 * x[, 1] + .7 * x[, 2] + .2 * x[, 3]), 3), .005, .995)
d <- store(data.frame(patient = seq_len(n), y, x1 = x[, 1], x2 = x[, 2], x3 = x[, 3], p_a, p_b), "binary.csv")

roc_of <- function(p) roc(d$y, p, direction = "<", levels = c(0, 1), quiet = TRUE)
test <- roc.test(roc_of(d$p_b), roc_of(d$p_a), method = "delong", paired = TRUE)
model <- function(formula) glm(formula, family = binomial, data = transform(d, la = log_odds(p_a),
    lb = log_odds(p_b)), control = EXACT)
wald <- function(f, i) list(estimate = unname(coef(f)[i]), se = sqrt(vcov(f)[i, i]))
one <- function(p) {
  l <- log_odds(p); r <- roc_of(p); ci <- as.numeric(ci.auc(r, method = "delong")); spline <- spline3(l)
  curve <- glm(d$y ~ spline$basis, family = binomial, control = EXACT)
  list(auc = as.numeric(auc(r)), auc_se = sqrt(var(r, method = "delong")), auc_lower = ci[1], auc_upper = ci[3],
      brier = mean((d$y - p)^2),
       brier_null = mean(d$y) * (1 - mean(d$y)), oe = mean(d$y) / mean(p), in_the_large = wald(glm(d$y ~ offset(l),
           family = binomial, control = EXACT), 1),
       slope = wald(glm(d$y ~ l, family = binomial, control = EXACT), 2), knots_logit = spline$knots,
           curve_beta = unname(coef(curve)), calibration = distances(fitted(curve), p))
}
compare <- function(small, large) {
  list(chisq = small$deviance - large$deviance, df = small$df.residual - large$df.residual,
       p = pchisq(small$deviance - large$deviance, small$df.residual - large$df.residual, lower.tail = FALSE),
       loglik_small = as.numeric(logLik(small)), loglik_large = as.numeric(logLik(large)))
}
improve <- Hmisc::improveProb(d$p_a, d$p_b, d$y)
fields <- c("nri", "se.nri", "z.nri", "nri.ev", "se.nri.ev", "nri.ne", "se.nri.ne", "idi", "se.idi", "z.idi",
    "improveSens", "improveSpec")

set.seed(20260602); m <- 200; kinds <- c("a", "b", "c")
score <- matrix(rnorm(m * 3), m); truth <- kinds[apply(score + .9 * matrix(rnorm(m * 3), m) + rep(c(.4, .1, -.4),
    each = m), 1, which.max)]
q <- exp(score); q <- round(q / rowSums(q), 4); q[, 1] <- round(1 - q[, 2] - q[, 3], 4)
k <- store(data.frame(patient = seq_len(m), class = truth, setNames(data.frame(q), paste0("p_", kinds))),
    "multiclass.csv")
probability <- setNames(k[paste0("p_", kinds)], kinds)
versus_rest <- sapply(kinds, function(c) as.numeric(auc(roc(k$class == c, probability[[c]], direction = "<",
    levels = c(FALSE, TRUE), quiet = TRUE))))
predicted <- factor(kinds[apply(probability, 1, which.max)], kinds); table <- table(factor(k$class, kinds), predicted)
chance <- sum(rowSums(table) * colSums(table)) / m^2; accuracy <- sum(diag(table)) / m
stopifnot(all(abs(rowSums(probability) - 1) < 1e-9), all(apply(probability, 1, function(p) sum(p == max(p))) == 1),
    all(probability > 0))

expect(list(
  model_a = one(d$p_a), model_b = one(d$p_b),
  delong_b_minus_a = list(difference = as.numeric(diff(rev(test$estimate))), z = unname(test$statistic),
      p = test$p.value, lower = test$conf.int[1], upper = test$conf.int[2]),
  improve_prob = setNames(lapply(fields, function(f) unname(improve[[f]])), gsub(".", "_", fields, fixed = TRUE)),
  likelihood_ratio = compare(model(y ~ la), model(y ~ la + lb)), likelihood_ratio_covariates = compare(model(y ~ x1),
      model(y ~ x1 + x2 + x3)),
  multiclass = list(classes = kinds, auc_one_vs_rest = unname(versus_rest), auc_macro = mean(versus_rest),
                    hand_till = as.numeric(multiclass.roc(k$class, as.matrix(probability))$auc), accuracy = accuracy,
                        kappa = (accuracy - chance) / (1 - chance),
                    confusion_rows_true = unname(unclass(table)),
                        brier = mean(rowSums((as.matrix(probability) - outer(k$class, kinds, "=="))^2)))),
  "binary.json")
