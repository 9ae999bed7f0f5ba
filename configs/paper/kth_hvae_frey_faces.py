"""The KTH report's two-level HVAE on frey_faces: it reports -1975.06 with 4 importance samples, a
figure that compares with nothing.

    python run_experiment.py --config=configs/paper/kth_hvae_frey_faces.py --data_dir=DIR

Time on two cores: a few minutes. Expected: a log-likelihood in nats of all 560 pixels; the
report's figure comes from other formulas and is shown for the record only.
"""

from tfhvae.configuration import kth_report


def get_config():
    config = kth_report(
        "hvae",
        "frey_faces",
        epochs=400,
        warmup_epochs=50,
        learning_rate=0.001,
        log_likelihood=-1975.06,
    )
    return config
