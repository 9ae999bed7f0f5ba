"""Models. Each turns a batch into a `Trace` and generates images."""

from tfhvae.models.base import Generation, LatentVariableModel
from tfhvae.models.two_level import HVAE, ConvHVAE
from tfhvae.models.vae import VAE

MODELS = (VAE, HVAE, ConvHVAE)

__all__ = ["MODELS", "VAE", "HVAE", "ConvHVAE", "Generation", "LatentVariableModel"]
