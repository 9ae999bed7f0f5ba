"""Two-level HVAE with a small PixelCNN as its decoder, on the embedded 8x8 digits.

python run_experiment.py --model=pixel_hvae
"""

from tfhvae.configuration import base_config


def get_config():
    config = base_config("pixel_hvae", "digits")
    config.model.latent_dims = (16, 16)
    config.model.hidden_units = 64
    config.model.width = 0.25
    config.model.pixel_filters = 24
    config.model.masked_convolutions = 3
    config.objective.warmup_epochs = 20
    config.optimizer.learning_rate = 1e-3
    config.training.epochs = 50
    config.training.patience = 50
    config.evaluation.num_samples = 200
    return config
