"""Variational Ladder Autoencoder with three layers of two units, on the embedded 8x8 digits.

python run_experiment.py --model=vlae
"""

from tfhvae.configuration import base_config


def get_config():
    config = base_config("vlae", "digits")
    config.model.filters = (16, 32, 64)
    config.objective.kl = "analytic"
    config.objective.warmup_epochs = 20
    config.optimizer.learning_rate = 1e-3
    config.training.epochs = 150
    config.training.patience = 50
    config.evaluation.num_samples = 1000
    return config
