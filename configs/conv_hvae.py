"""Convolutional two-level HVAE, at a quarter of the width, on the embedded 8x8 digits.

python run_experiment.py --model=conv_hvae
"""

from tfhvae.configuration import base_config


def get_config():
    config = base_config("conv_hvae", "digits")
    config.model.latent_dims = (16, 16)
    config.model.hidden_units = 64
    config.model.width = 0.25
    config.model.decoder_convolutions = 2
    config.objective.warmup_epochs = 20
    config.optimizer.learning_rate = 1e-3
    config.training.epochs = 60
    config.training.patience = 50
    config.evaluation.num_samples = 1000
    return config
