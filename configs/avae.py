"""Auxiliary VAE with two levels, on the embedded 8x8 digits.

python run_experiment.py --model=avae
"""

from tfhvae.configuration import base_config


def get_config():
    config = base_config("avae", "digits")
    config.model.latent_dims = (16, 8)
    config.model.auxiliary_dims = (16, 8)
    config.model.hidden_units = (128, 64)
    config.objective.warmup_epochs = 100
    config.optimizer.learning_rate = 1e-3
    config.training.epochs = 300
    config.training.patience = 50
    config.evaluation.num_samples = 1000
    return config
