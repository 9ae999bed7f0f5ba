"""Layers: tensors in, tensors out, for any Keras 3 model.

Nothing here knows a distribution or the rest of the package: the layers that
describe a Gaussian return its `(loc, scale)`.
"""

from tfhvae.layers.autoregressive import MaskedBlock, MaskedConv2D, PixelCNN
from tfhvae.layers.convolution import GatedConv2D
from tfhvae.layers.dense import MLP, GatedDense, JointDense
from tfhvae.layers.folding import Fold
from tfhvae.layers.gaussian import GaussianHead, PrecisionWeightedMerge
from tfhvae.layers.normalization import BatchNormalization

__all__ = [
    "MLP",
    "BatchNormalization",
    "Fold",
    "GatedConv2D",
    "GatedDense",
    "GaussianHead",
    "JointDense",
    "MaskedBlock",
    "MaskedConv2D",
    "PixelCNN",
    "PrecisionWeightedMerge",
]
