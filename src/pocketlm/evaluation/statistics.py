"""Intervals, tests and corrections. Every accuracy that the project states comes through here.

| for | call |
| --- | --- |
| a rate of items, of items in clusters | `wilson`, `clustered_rate` |
| the mean over levels or tasks | `mean_of_rates` |
| several samples of each problem | `average_at_k`, `pass_at_k` (`repeated_samples`) |
| bits per byte, perplexity | `ratio_bootstrap` |
| one model against another on the same items | `paired_difference`, with `mcnemar` or `sign_flip_test` |
| a family of such comparisons | `holm` |
| a success rate too small for a fixed number of samples | `pass_until` (`pass_until`) |
| what the order of options does | `option_order` |

All intervals are of 95 % and cover the choice of items (of `pass_until`: of samples). They do not cover the choice of
training seed; `study` does. An interval is for one figure alone: only p-values are corrected for their number.
"""

from pocketlm.evaluation.bootstrap import RESAMPLES, paired_difference, ratio_bootstrap
from pocketlm.evaluation.paired_tests import PairedTest, holm, mcnemar, sign_flip_test
from pocketlm.evaluation.rates import CONFIDENCE, Estimate, clustered_rate, mean_of_rates, wilson
from pocketlm.evaluation.repeated_samples import average_at_k, pass_at_k

__all__ = [
    "CONFIDENCE",
    "RESAMPLES",
    "Estimate",
    "PairedTest",
    "average_at_k",
    "clustered_rate",
    "holm",
    "mcnemar",
    "mean_of_rates",
    "paired_difference",
    "pass_at_k",
    "ratio_bootstrap",
    "sign_flip_test",
    "wilson",
]
