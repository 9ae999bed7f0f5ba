"""Convolutional two-level HVAE with a standard prior on static_mnist: Tomczak & Welling 2018
report -82.41 nats.

    python run_experiment.py --config=configs/paper/conv_hvae_static_mnist.py --data_dir=DIR

Time on two cores: about 8 minutes an epoch (100 images/s), so days to early stopping; a GPU
(--device=gpu) or --mixed_precision makes it feasible. Expected on convergence: within 0.5 nats
of the published number.
"""

from tfhvae.configuration import tomczak_welling


def get_config():
    return tomczak_welling("conv_hvae", "static_mnist", prior="standard", log_likelihood=-82.41)
