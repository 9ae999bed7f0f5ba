"""Ladder VAE with three layers, on the embedded 8x8 digits.

python run_experiment.py --model=ladder_vae
"""

from tfhvae.configuration import base_config


def get_config():
    config = base_config("ladder_vae", "digits")
    config.model.latent_dims = (16, 8, 4)
    config.model.hidden_units = (128, 64, 32)
    config.objective.warmup_epochs = 100
    config.optimizer.learning_rate = 1e-3
    config.training.epochs = 400
    config.training.patience = 50
    config.evaluation.num_samples = 1000
    return config
