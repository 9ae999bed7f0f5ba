"""Two-level HVAE with a standard prior on dynamic_mnist: Tomczak & Welling 2018 report -82.41
nats.

    python run_experiment.py --config=configs/paper/hvae_dynamic_mnist.py --data_dir=DIR

Time on two cores: about 12 s an epoch; our runs on dynamic_mnist had 539 to 1004 epochs, and none
had stopped early by then. Expected on convergence: within 0.5 nats of the published number.
"""

from tfhvae.configuration import tomczak_welling


def get_config():
    return tomczak_welling("hvae", "dynamic_mnist", prior="standard", log_likelihood=-82.41)
