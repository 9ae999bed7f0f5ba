"""Distributions, as `tfp.distributions.Distribution` subclasses."""

from tfhvae.distributions.autoregressive import Autoregressive
from tfhvae.distributions.image import Bernoulli, DiscretizedLogistic
from tfhvae.distributions.mixture import GaussianMixture

__all__ = ["Autoregressive", "Bernoulli", "DiscretizedLogistic", "GaussianMixture"]
