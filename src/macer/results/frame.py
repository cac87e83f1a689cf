"""Records as a data frame."""

from collections.abc import Sequence

import numpy as np

from macer.errors import needs
from macer.results.records import Records

with needs("report"):
    import pandas as pd


def to_frame(all_records: Sequence[Records]) -> pd.DataFrame:
    """Return one row per image and network, in the order of the records and of the images' indices.

    The columns are run, kind (hard or soft), idx, label, predict (-1: abstained), radius, correct, seconds, and then
    how the certificates were made: sigma, n, alpha, dataset, method, total (images of the split). p_a_lower is the
    bound on the class's probability (hard) or mean score (soft). Where the shape of the images is known, it follows
    (such as 3x32x32), and radius_linf, the certified L-infinity radius: radius / sqrt(channels * height * width). Where
    there are any, the images' digests follow (image), the split ("train" or "test"), the radius at which
    images were certified or not at all (at_least), the share of a radius to within which it was known when sampling
    stopped (within), the bound where it is not the usual one, beta of soft certificates, the precision where it is not
    float32, notes, and the names of images and classes (file, label_name, predict_name). Unknown values are missing
    (pandas' NA, or NaN in columns of decimal numbers); sigma and method of published files are those in their names.
    """
    return pd.concat(map(_one_frame, all_records), ignore_index=True)


def _one_frame(records: Records) -> pd.DataFrame:
    images = len(records)

    def column(values: object, kind: str) -> pd.Series:
        if not isinstance(values, np.ndarray):
            values = [values] * images
        return pd.Series(values, dtype=kind)

    def names(labels: np.ndarray | None) -> np.ndarray | None:
        known = dict(enumerate(records.class_names or ()))
        return None if labels is None else np.array([known.get(label) for label in labels.tolist()], dtype=object)

    more = {}
    if records.shape is not None:
        more["shape"] = column("x".join(map(str, records.shape)), "string")
        more["radius_linf"] = column(records.radius_linf, "float64")
    if records.image is not None:
        more["image"] = column(records.image, "string")
    if records.split is not None:
        more["split"] = column(records.split, "string")
    if records.at_least is not None:
        more["at_least"] = column(records.at_least, "float64")
    if records.within is not None:
        more["within"] = column(records.within, "float64")
    if records.bound is not None:
        more["bound"] = column(records.bound, "string")
    if records.beta is not None:
        more["beta"] = column(records.beta, "float64")
    if records.precision is not None:
        more["precision"] = column(records.precision, "string")
    if records.notes:
        more["notes"] = column("; ".join(records.notes), "string")
    if records.file is not None:
        more["file"] = column(records.file, "string")
    if records.class_names is not None:
        more["label_name"] = column(names(records.label), "string")
        more["predict_name"] = column(names(records.predict), "string")
    return pd.DataFrame(
        {
            "run": column(records.run, "string"),
            "kind": column(records.kind, "string"),
            "idx": column(records.idx, "Int64"),
            "label": column(records.label, "Int64"),
            "predict": column(records.predict, "Int64"),
            "radius": column(records.radius, "float64"),
            "correct": column(records.correct, "bool"),
            "seconds": column(records.seconds, "float64"),
            "sigma": column(records.sigma, "float64"),
            "n": column(records.n, "Int64"),
            "alpha": column(records.alpha, "float64"),
            "dataset": column(records.dataset, "string"),
            "method": column(records.method, "string"),
            "total": column(records.total, "Int64"),
            "p_a_lower": column(records.p_a_lower, "float64"),
            **more,
        }
    )
