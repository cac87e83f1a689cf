"""What the mathematics of smoothing refuses: one body, a table of impossible input with what the message names."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from macer.errors import SettingsError
from macer.smoothing import Hard, Soft, bounds, radius
from macer.smoothing.grid import GridNoiseSource
from macer.smoothing.sequential import RadiusAtLeast, RadiusWithin
from macer.smoothing.spending import Sequential

NAN, INF, MOST = math.nan, math.inf, 10**7
QUESTIONS = (RadiusAtLeast(0.25), RadiusWithin(0.1))


def votes(question, successes, trials, sigma=0.25, alpha=0.05):
    return question.answer(np.array(successes, dtype=int), np.array(trials, dtype=int), sigma, alpha)


def noisy(pixel):
    image = torch.zeros(1, 2, 2)
    image[0, 1, 0] = pixel
    GridNoiseSource(0.25, 0).check(image)


TAKES_ALPHA = {
    "clopper_pearson_lower": partial(bounds.clopper_pearson_lower, 1, 2),
    "clopper_pearson_upper": partial(bounds.clopper_pearson_upper, 1, 2),
    "two_class_bounds": partial(bounds.two_class_bounds, 1, 1, 2, 2),
    "empirical_bernstein_lower": partial(bounds.empirical_bernstein_lower, 1.0, 1.0, 2),
    "betting_lower": partial(bounds.betting_lower, np.array([1.0]), np.array([2])),
    "Soft": Soft().fewest_samples,
    "Hard": Hard().fewest_samples,
    **{type(question).__name__: partial(votes, question, [90], [100], 0.25) for question in QUESTIONS},
}
TAKES_SIGMA = {
    "certified_radius": partial(radius.certified_radius, 0.9),
    "certified_radius of sound noise": lambda sigma: radius.certified_radius(0.9, sigma, gap=1e-12),
    "GridNoiseSource": lambda sigma: GridNoiseSource(sigma, 0),
    **{f"{type(q).__name__}.answer": partial(votes, q, [90], [100]) for q in QUESTIONS},
    **{f"{type(q).__name__}.fewest_samples": lambda sigma, q=q: q.fewest_samples(sigma, 0.05) for q in QUESTIONS},
}
COUNTS = [
    ((), ()),
    ((0,), (0,)),
    ((-1,), (5,)),
    ((6,), (5,)),
    ((5, 4), (10, 20)),
    ((5, 9), (10, 12)),
    ((5, 5), (10, 9)),
]

# The function, its arguments, and words of the message.
TABLE = [
    *[
        (function, [alpha], "alpha.*between 0 and 1")
        for function in TAKES_ALPHA.values()
        for alpha in (0.0, 1.0, 1.5, NAN)
    ],
    *[(function, [sigma], "sigma") for function in TAKES_SIGMA.values() for sigma in (0.0, -0.25, INF, NAN)],
    (GridNoiseSource, [10.01, 0], "sigma"),
    *[
        (bound, [count, n, 0.05], "impossible counts")
        for bound in (bounds.clopper_pearson_lower, bounds.clopper_pearson_upper)
        for count, n in [(-1, 10), (11, 10), (0, 0)]
    ],
    (radius.largest_radius, [0.25, 0, 0.001], "impossible counts: 0 of 0"),
    (bounds.two_class_bounds, [0, 0, 0, 2, 0.05], "impossible counts: 0 of 0"),
    (bounds.two_class_bounds, [-1, 5, 4, 2, 0.05], "impossible counts: -1 of 4"),
    # A variance that rounds below 0 is one thing; sums without values behind them must not become a proof.
    *[
        (bounds.empirical_bernstein_lower, [float(total), float(squares), 10, 0.05], "impossible sums of 10 values")
        for total, squares in [(-1, 0), (11, 11), (5, 6), (5, 2), (5, -1), (NAN, 1), (1, NAN)]
    ],
    (bounds.empirical_bernstein_lower, [1.0, 1.0, 1, 0.05], "at least 2"),
    *[
        (bounds.two_class_bounds, [*votes, 0.05], "impossible votes")
        for votes in [(5, 0, 5, 1), (5, -1, 5, 2), (5, 6, 10, 3), (5, 4, 10, 2), (3, 1, 10, 3)]
    ],
    *[
        (bounds.betting_lower, [np.array(values), np.array(counts), 0.05], "histogram needs values")
        for values, counts in [((0.5, 1.1), (1, 1)), ((-0.1, 1.0), (1, 1)), ((NAN, 1.0), (1, 1)), ((0.5, 1.0), (-1, 3))]
    ],
    (bounds.betting_lower, [np.array([0.5]), np.array([0]), 0.05], "histogram needs values"),
    *[(radius.certified_radius, [p, 0.25], "lower bound must lie in") for p in (-0.1, 1.1, NAN)],
    *[(radius.certified_radius, [0.9, 0.25, p], "upper bound must lie in") for p in (-0.1, 1.1, NAN)],
    *[(radius.certified_radius, [0.9, 0.25, None, gap], "gap of the noise") for gap in (-1e-12, 0.5, NAN)],
    *[(noisy, [p], r"k/255 with k = 0 \.\. 255") for p in (0.5, 100 / 255 + 1e-6, -1 / 255, 256 / 255, NAN, INF)],
    *[(RadiusAtLeast, [asked], "radius to decide at") for asked in (0.0, -1.0, INF, NAN)],
    # Beyond 5.2 sigma 10^7 votes do not suffice, beyond 8.2 sigma p_A rounds to 1.
    *[(RadiusAtLeast(asked).fewest_samples, [0.25, 0.001], "more than 10,000,000") for asked in (1.4, 2.1, 100.0)],
    *[(RadiusWithin, [width], "relative width") for width in (0.0, 1.0, -0.1, NAN)],
    (RadiusWithin, [0.1, 0.0], "ceiling"),
    *[(votes, [question, *counts], "impossible votes") for question in QUESTIONS for counts in COUNTS],
    *[(votes, [question, [MOST], [MOST + 1]], "at most 10,000,000 samples") for question in QUESTIONS],
    *[(Sequential(each, 100, MOST + 1, 0.001).check, [0.25], "at most 10,000,000 samples") for each in QUESTIONS],
]


@pytest.mark.parametrize(("function", "arguments", "words"), TABLE)
def test_impossible_input_is_refused_in_one_line(function, arguments, words):
    with pytest.raises(SettingsError, match=words) as refusal:
        function(*arguments)
    assert "\n" not in str(refusal.value)
