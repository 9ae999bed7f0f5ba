"""The KTH report's VampPrior VAE on frey_faces: it reports -2279.22 with 4 importance samples, a
figure that compares with nothing.

    python run_experiment.py --config=configs/paper/kth_vampprior_frey_faces.py --data_dir=DIR

Time on two cores: a few minutes. Expected: a log-likelihood in nats of all 560 pixels; the
report's figure comes from other formulas and is shown for the record only.
"""

from tfhvae.configuration import kth_report


def get_config():
    config = kth_report(
        "vampprior",
        "frey_faces",
        epochs=200,
        warmup_epochs=60,
        learning_rate=0.0001,
        log_likelihood=-2279.22,
    )
    return config
