"""Auxiliary deep generative model, on the embedded 8x8 digits with 100 labels.

python run_experiment.py --model=adgm
python run_experiment.py --model=adgm --num_labels=50 --label_seed=1
"""

from tfhvae.configuration import base_config


def get_config():
    config = base_config("adgm", "digits")
    config.model.latent_dim = 16
    config.model.auxiliary_dim = 16
    config.model.hidden_units = (128, 128)
    config.model.batch_normalization = "hidden"
    config.labels.num_labels = 100
    config.optimizer.learning_rate = 1e-3
    config.training.epochs = 150
    config.evaluation.num_samples = 1000
    return config
