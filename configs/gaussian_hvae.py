"""Gaussian HVAE with three layers, on the embedded 8x8 digits.

python run_experiment.py --model=gaussian_hvae
"""

from tfhvae.configuration import base_config


def get_config():
    config = base_config("gaussian_hvae", "digits")
    config.model.latent_dims = (16, 8, 4)
    config.model.hidden_units = (64, 64, 32)
    config.model.filters = (16, 32)
    config.objective.warmup_epochs = 20
    config.optimizer.learning_rate = 1e-3
    config.training.epochs = 150
    config.training.patience = 50
    config.evaluation.num_samples = 1000
    return config
