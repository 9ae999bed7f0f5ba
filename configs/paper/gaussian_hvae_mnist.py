"""Gaussian HVAE with three layers on MNIST (Zhao et al. 2017, figures 2 and 3).

    python run_experiment.py --config=configs/paper/gaussian_hvae_mnist.py --data_dir=DIR

Time on two cores: 4 minutes an epoch while other programs ran (265 images/s). Expected: the paper
gives no number, only figures: gibbs_samples.png has a Gibbs chain of z1 and x beside ancestral
samples, of similar quality, and in the paper's figure 3 (layer_resampling.png) only the top layer
varies the digit. After one epoch ours varies with all three, see results/README.md.
"""

from tfhvae.configuration import base_config


def get_config():
    config = base_config("gaussian_hvae", "mnist")
    config.model.train_output_scale = True
    config.dataset.split = "60k_10k"
    config.objective.exponential_warmup_steps = 2000
    config.optimizer.learning_rate = 1e-4
    config.training.epochs = 50
    config.evaluation.num_samples = 500
    config.published.source = "Zhao et al. 2017"
    config.published.protocol = "no number published, figures only"
    return config
