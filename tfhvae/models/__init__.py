"""Models. Each turns a batch into a `Trace` and generates images."""

from tfhvae.models.auxiliary import AVAE
from tfhvae.models.base import Generation, LatentVariableModel
from tfhvae.models.cluster_aware import CaGeM
from tfhvae.models.deep import DeepVAE, LadderVAE, ProbabilisticLadder
from tfhvae.models.feature_map import FAME
from tfhvae.models.gaussian_hierarchy import GaussianHVAE
from tfhvae.models.pixel_cnn import PixelCNNModel
from tfhvae.models.semi_supervised import ADGM, M1M2, M2, SDGM, SemiSupervisedModel
from tfhvae.models.two_level import HVAE, ConvHVAE, PixelHVAE
from tfhvae.models.vae import VAE
from tfhvae.models.variational_ladder import VLAE

MODELS = (
    VAE,
    HVAE,
    ConvHVAE,
    PixelHVAE,
    DeepVAE,
    ProbabilisticLadder,
    LadderVAE,
    AVAE,
    M2,
    M1M2,
    ADGM,
    SDGM,
    CaGeM,
    PixelCNNModel,
    FAME,
    VLAE,
    GaussianHVAE,
)

__all__ = [
    "MODELS",
    "VAE",
    "HVAE",
    "ConvHVAE",
    "PixelHVAE",
    "DeepVAE",
    "ProbabilisticLadder",
    "LadderVAE",
    "AVAE",
    "M2",
    "M1M2",
    "ADGM",
    "SDGM",
    "CaGeM",
    "PixelCNNModel",
    "FAME",
    "VLAE",
    "GaussianHVAE",
    "Generation",
    "LatentVariableModel",
    "SemiSupervisedModel",
]
