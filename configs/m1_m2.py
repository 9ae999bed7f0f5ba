"""M1+M2: M2 on the latents of a VAE, on the embedded 8x8 digits with 100 labels.

python run_experiment.py --model=m1_m2
"""

from tfhvae.configuration import base_config


def get_config():
    config = base_config("m1_m2", "digits")
    config.model.m1_latent_dim = 16
    config.model.m1_hidden_units = (128, 128)
    config.model.latent_dim = 16
    config.model.hidden_units = (128,)
    config.labels.num_labels = 100
    config.optimizer.learning_rate = 1e-3
    config.training.m1_epochs = 200
    config.training.epochs = 200
    config.evaluation.num_samples = 1000
    return config
