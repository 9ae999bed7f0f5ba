"""The KTH report's VAE on frey_faces: it reports -2344.96 with 4 importance samples, a figure that
compares with nothing.

    python run_experiment.py --config=configs/paper/kth_vae_frey_faces.py --data_dir=DIR

Time on two cores: a few minutes. Expected: a log-likelihood in nats of all 560 pixels; the
report's figure comes from other formulas and is shown for the record only.
"""

from tfhvae.configuration import kth_report


def get_config():
    config = kth_report(
        "vae",
        "frey_faces",
        epochs=200,
        warmup_epochs=100,
        learning_rate=0.001,
        log_likelihood=-2344.96,
    )
    return config
