"""The KTH report's VAE on threshold_mnist: it reports -276.18 with 4 importance samples, a figure
that compares with nothing.

    python run_experiment.py --config=configs/paper/kth_vae_threshold_mnist.py --data_dir=DIR

TIME
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
