"""Convolutional two-level HVAE with a VampPrior on dynamic_mnist: Tomczak & Welling 2018 report
-79.75 nats.

    python run_experiment.py --config=configs/paper/conv_hvae_vampprior_dynamic_mnist.py
    --data_dir=DIR

Time on two cores: about 8 minutes an epoch (100 images/s), so days to early stopping; a GPU
(--device=gpu) or --mixed_precision makes it feasible. Expected on convergence: within 0.5 nats
of the published number.
"""

from tfhvae.configuration import tomczak_welling


def get_config():
    return tomczak_welling("conv_hvae", "dynamic_mnist", prior="vampprior", log_likelihood=-79.75)
