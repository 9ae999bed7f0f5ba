"""Distributions, as `tfp.distributions.Distribution` subclasses."""

from tfhvae.distributions.image import Bernoulli, DiscretizedLogistic
from tfhvae.distributions.mixture import GaussianMixture

__all__ = ["Bernoulli", "DiscretizedLogistic", "GaussianMixture"]
