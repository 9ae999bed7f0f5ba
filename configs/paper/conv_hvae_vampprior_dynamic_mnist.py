"""Convolutional two-level HVAE with a VampPrior on dynamic_mnist: Tomczak & Welling 2018 report
-79.75 nats.

    python run_experiment.py --config=configs/paper/conv_hvae_vampprior_dynamic_mnist.py
    --data_dir=DIR

TIME
"""

from tfhvae.configuration import tomczak_welling


def get_config():
    return tomczak_welling("conv_hvae", "dynamic_mnist", prior="vampprior", log_likelihood=-79.75)
