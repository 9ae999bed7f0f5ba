"""PixelCNN without latent variables, on the embedded 8x8 digits.

python run_experiment.py --model=pixel_cnn
"""

from tfhvae.configuration import base_config


def get_config():
    config = base_config("pixel_cnn", "digits")
    config.model.pixel_filters = 32
    config.model.first_kernel_size = 5
    config.model.blocks = 2
    config.optimizer.learning_rate = 1e-3
    config.training.epochs = 40
    config.training.patience = 10
    return config
