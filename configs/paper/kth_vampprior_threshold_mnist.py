"""The KTH report's VampPrior VAE on threshold_mnist: it reports -544.73 with 4 importance samples,
a figure that compares with nothing.

    python run_experiment.py --config=configs/paper/kth_vampprior_threshold_mnist.py --data_dir=DIR

Time on two cores: not measured, about 35 minutes by its 200 pseudo-inputs. Expected: a correct bound
in nats of all 784 pixels; the report's figure comes from other formulas and is shown for the record
only.
"""

from tfhvae.configuration import kth_report


def get_config():
    config = kth_report(
        "vampprior",
        "threshold_mnist",
        epochs=200,
        warmup_epochs=60,
        learning_rate=0.0001,
        log_likelihood=-544.73,
    )
    config.model.num_components = 200
    return config
