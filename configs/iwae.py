"""IWAE: the VAE trained on the importance-weighted bound with 50 samples, on the embedded 8x8 digits.

python run_experiment.py --model=iwae
"""

from tfhvae.configuration import base_config


def get_config():
    config = base_config("iwae", "digits")
    config.model.latent_dim = 16
    config.model.hidden_units = (128, 128)
    config.objective.num_importance = 50
    config.objective.gradient = "doubly_reparameterized"
    config.optimizer.learning_rate = 1e-3
    config.training.epochs = 100
    config.training.patience = 50
    config.evaluation.num_samples = 1000
    return config
