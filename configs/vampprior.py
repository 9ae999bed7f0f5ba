"""VampPrior VAE, on the embedded 8x8 digits.

python run_experiment.py --model=vampprior
"""

from tfhvae.configuration import base_config


def get_config():
    config = base_config("vampprior", "digits")
    config.model.latent_dim = 16
    config.model.hidden_units = (128, 128)
    config.model.num_components = 100
    config.model.pseudo_inputs = "training_images"
    config.objective.warmup_epochs = 50
    config.optimizer.learning_rate = 1e-3
    config.training.epochs = 400
    config.training.patience = 50
    config.evaluation.num_samples = 1000
    return config
