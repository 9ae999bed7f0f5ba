"""Models. Each turns a batch into a `Trace` and generates images."""

from tfhvae.models.base import Generation, LatentVariableModel
from tfhvae.models.deep import DeepVAE, LadderVAE, ProbabilisticLadder
from tfhvae.models.two_level import HVAE, ConvHVAE
from tfhvae.models.vae import VAE

MODELS = (VAE, HVAE, ConvHVAE, DeepVAE, ProbabilisticLadder, LadderVAE)

__all__ = [
    "MODELS",
    "VAE",
    "HVAE",
    "ConvHVAE",
    "DeepVAE",
    "ProbabilisticLadder",
    "LadderVAE",
    "Generation",
    "LatentVariableModel",
]
