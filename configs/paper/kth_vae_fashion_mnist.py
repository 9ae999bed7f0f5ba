"""The KTH report's VAE on fashion_mnist: it reports -3190.18 with 4 importance samples, a figure
that compares with nothing.

    python run_experiment.py --config=configs/paper/kth_vae_fashion_mnist.py --data_dir=DIR

Time on two cores: about 30 minutes. Expected: a correct bound in nats of all 784 pixels; the
report's figure comes from other formulas and is shown for the record only.
"""

from tfhvae.configuration import kth_report


def get_config():
    config = kth_report(
        "vae",
        "fashion_mnist",
        epochs=300,
        warmup_epochs=100,
        learning_rate=0.001,
        log_likelihood=-3190.18,
    )
    return config
