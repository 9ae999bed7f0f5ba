"""Cluster-aware generative model, on the embedded 8x8 digits with 100 labels.

python run_experiment.py --model=cagem
python run_experiment.py --model=cagem --num_labels=50 --label_seed=1
"""

from tfhvae.configuration import base_config


def get_config():
    config = base_config("cagem", "digits")
    config.model.latent_dims = (16, 8)
    config.model.hidden_units = (128, 128)
    config.model.batch_normalization = "hidden"
    config.labels.num_labels = 100
    config.objective.warmup_epochs = 100
    config.optimizer.learning_rate = 1e-3
    config.training.epochs = 200
    config.evaluation.num_samples = 1000
    return config
