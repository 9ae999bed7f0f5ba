"""M1: a VAE, and a support vector machine on its latents, on the embedded 8x8 digits with 100 labels.

python run_experiment.py --model=m1_svm
"""

from tfhvae.configuration import base_config


def get_config():
    config = base_config("m1_svm", "digits")
    config.model.latent_dim = 16
    config.model.hidden_units = (128, 128)
    config.labels.num_labels = 100
    config.optimizer.learning_rate = 1e-3
    config.training.epochs = 200
    config.evaluation.num_samples = 1000
    return config
