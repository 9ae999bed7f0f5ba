"""Auxiliary VAE on MNIST (Maaløe et al. 2016, table 1): -84.59 nats with one level, -82.97 with two.

    python run_experiment.py --config=configs/paper/avae_mnist.py:avae-2 --data_dir=DIR

Variants: avae-1 and avae-2. Trained as the Ladder VAE: batches of 256, Adam at 1e-3, warm-up over
200 epochs, batch normalisation, training images binarised anew in every epoch.

Time on two cores: about 12 s (avae-1) or 18 s (avae-2) an epoch, 2000 epochs. Expected: within 0.5
nats of the published numbers.
"""

from tfhvae.configuration import base_config, check_name

PUBLISHED = {"avae-1": -84.59, "avae-2": -82.97}


def get_config(variant="avae-2"):
    check_name("variant", variant, PUBLISHED)
    levels = int(variant[-1])
    config = base_config("avae", "dynamic_mnist")
    config.dataset.split = "60k_10k"
    for field in ("latent_dims", "auxiliary_dims", "hidden_units"):
        config.model[field] = config.model[field][:levels]
    config.objective.warmup_epochs = 200
    config.optimizer.learning_rate = 1e-3
    config.training.batch_size = 256
    config.training.epochs = 2000
    config.published.log_likelihood = PUBLISHED[variant]
    config.published.source = "Maaløe et al. 2016"
    return config
