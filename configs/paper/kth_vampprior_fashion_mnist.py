"""The KTH report's VampPrior VAE on fashion_mnist: it reports -3348.91 with 4 importance samples,
a figure that compares with nothing.

    python run_experiment.py --config=configs/paper/kth_vampprior_fashion_mnist.py --data_dir=DIR

Time on two cores: about 56 minutes. Expected: a correct bound in nats of all 784 pixels; the
report's figure comes from other formulas and is shown for the record only.
"""

from tfhvae.configuration import kth_report


def get_config():
    config = kth_report(
        "vampprior",
        "fashion_mnist",
        epochs=200,
        warmup_epochs=60,
        learning_rate=0.0001,
        log_likelihood=-3348.91,
    )
    return config
