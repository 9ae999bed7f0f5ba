"""The image data sets, each with its evaluation protocol."""

from tfhvae.data.datasets import DATASETS, OPTIONS, DataSet, Split, binarize, load
from tfhvae.data.labels import labelled_subset
from tfhvae.data.sources import DataError

__all__ = [
    "DATASETS",
    "DataError",
    "DataSet",
    "OPTIONS",
    "Split",
    "binarize",
    "labelled_subset",
    "load",
]
