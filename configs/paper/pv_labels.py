"""SDGM on few labels of a photovoltaic plant (Maaløe et al. 2018, section IV-B): with 1500 labels,
93.12 % right from all six measurements, that is 6.88 % error.

    python run_experiment.py --config=configs/paper/pv_labels.py:1500
    python run_experiment.py --config=configs/paper/pv_labels.py:100 --label_seed=1

Variants: the number of labels, 100, 300, ..., 1500. One draw of labels; the ten of the paper, with
both baselines, are `python -m tfhvae.monitoring experiment labels`. Time on two cores: two minutes.
The paper's measurements were never published: these are simulated, and the error is not comparable.
"""

from tfhvae.configuration import check_name, photovoltaic

VARIANTS = tuple(str(count) for count in range(100, 1501, 200))


def get_config(variant="1500"):
    check_name("variant", variant, VARIANTS)
    config = photovoltaic(published=93.12 if variant == "1500" else None)
    config.labels.num_labels = int(variant)
    return config
