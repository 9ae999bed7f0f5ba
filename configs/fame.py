"""Feature map VAE of three layers, on the embedded 8x8 digits.

python run_experiment.py --model=fame
"""

from tfhvae.configuration import base_config


def get_config():
    config = base_config("fame", "digits")
    config.model.latent_dims = (16, 8, 4)
    config.model.hidden_units = (64, 32, 16)
    config.model.filters = (16, 32, 32)
    config.model.pixel_filters = 24
    config.model.first_kernel_size = 5
    config.model.blocks = 1
    config.objective.warmup_start = 0.3
    config.objective.warmup_epochs = 20
    config.optimizer.learning_rate = 1e-3
    config.training.epochs = 50
    config.training.patience = 50
    config.evaluation.num_samples = 200
    return config
