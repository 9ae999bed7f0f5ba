"""The KTH report's VAE on threshold_mnist: it reports -276.18 with 4 importance samples, a figure
that compares with nothing.

    python run_experiment.py --config=configs/paper/kth_vae_threshold_mnist.py --data_dir=DIR

Time on two cores: about 20 minutes. Expected: a correct bound in nats of all 784 pixels; the
report's figure comes from other formulas and is shown for the record only.
"""

from tfhvae.configuration import kth_report


def get_config():
    config = kth_report(
        "vae",
        "threshold_mnist",
        epochs=200,
        warmup_epochs=100,
        learning_rate=0.001,
        log_likelihood=-276.18,
    )
    return config
