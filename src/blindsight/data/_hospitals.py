"""A real sample: the Wisconsin diagnostic set as three hospitals of different size and case mix."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

from ._schema import Schema

if TYPE_CHECKING:
    import polars as pl

__all__ = ["load_hospitals"]

_BENIGN = {"hospital-a": 190, "hospital-b": 110, "hospital-c": 57}
_MALIGNANT = {"hospital-a": 7, "hospital-b": 7, "hospital-c": 5}
"""19 of 376 records: one in twenty, unevenly spread."""


def load_hospitals() -> tuple[dict[str, pl.DataFrame], Schema]:
    """Load real breast cancer records as three hospitals, with a declared schema.

    Returns
    -------
    tables : dict of str to polars.DataFrame
        "hospital-a" (197 rows, larger tumours), "hospital-b" (117), "hospital-c" (62, smaller ones); 30 features
        and the label ``malignant``. All 357 benign records and 19 of the 212 malignant ones, so that one
        record in twenty is an anomaly. The same at every call.
    schema : Schema
        Ranges declared by hand from the published table of the set.

    Notes
    -----
    Street, Wolberg and Mangasarian, "Nuclear feature extraction for breast tumor diagnosis", 1993; shipped
    with scikit-learn (CC BY 4.0). The division into hospitals is ours: benign records go to hospital-a with a
    probability that rises with their mean radius, and to hospital-c with one that falls.
    """
    import polars as pl
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    schema = Schema.from_toml(resources.files(__package__).joinpath("samples/hospitals.toml").read_text("utf-8"))
    rng = np.random.default_rng(1995)
    benign = np.flatnonzero(data.target == 1)
    malignant = rng.permutation(np.flatnonzero(data.target == 0))
    # A soft ordering by size: the rank of the mean radius, blurred so that the hospitals overlap.
    rank = np.argsort(np.argsort(data.data[benign, 0])) / len(benign)
    benign = benign[np.argsort(-rank + rng.normal(0, 0.35, len(benign)))]
    tables = {}
    for name, count in _BENIGN.items():
        rows = np.concatenate([benign[:count], malignant[: _MALIGNANT[name]]])
        benign, malignant = benign[count:], malignant[_MALIGNANT[name] :]
        rows = rng.permutation(rows)
        columns = dict(zip(schema.feature_names, data.data[rows].T, strict=True))
        tables[name] = pl.DataFrame({**columns, "malignant": (data.target[rows] == 0).astype(np.int8)})
    return tables, schema
