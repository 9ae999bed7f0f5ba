"""Two-level HVAE with a VampPrior on static_mnist: Tomczak & Welling 2018 report -83.19 nats.

    python run_experiment.py --config=configs/paper/hvae_vampprior_static_mnist.py --data_dir=DIR

Time on two cores: about 23 s an epoch; our runs on dynamic_mnist had 539 to 1004 epochs, and none
had stopped early by then. Expected on convergence: within 0.5 nats of the published number.
"""

from tfhvae.configuration import tomczak_welling


def get_config():
    return tomczak_welling(
        "hvae_vampprior", "static_mnist", prior="vampprior", log_likelihood=-83.19
    )
