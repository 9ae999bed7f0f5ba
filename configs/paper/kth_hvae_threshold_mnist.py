"""The KTH report's two-level HVAE on threshold_mnist: it reports -458.72 with 4 importance
samples, a figure that compares with nothing.

    python run_experiment.py --config=configs/paper/kth_hvae_threshold_mnist.py --data_dir=DIR

Time on two cores: about 67 minutes. Expected: a correct bound in nats of all 784 pixels; the
report's figure comes from other formulas and is shown for the record only.
"""

from tfhvae.configuration import kth_report


def get_config():
    config = kth_report(
        "hvae",
        "threshold_mnist",
        epochs=300,
        warmup_epochs=100,
        learning_rate=0.001,
        log_likelihood=-458.72,
    )
    return config
