"""SDGM on all labels of a photovoltaic plant (Maaløe et al. 2018, table III): 79.06 % right from
current and voltage, 92.47 % from all six measurements, that is 20.94 and 7.53 % error.

    python run_experiment.py --config=configs/paper/pv_supervised.py:all
    python run_experiment.py --config=configs/paper/pv_supervised.py:iv

Variants: all and iv. One split; the five of the paper, with both baselines, are
`python -m tfhvae.monitoring experiment supervised`. Time on two cores: two minutes. The paper's
measurements were never published: these are simulated, and the error is not comparable.
"""

from tfhvae.configuration import check_name, photovoltaic

PUBLISHED = {"all": ("pv_simulated", 92.47), "iv": ("pv_simulated_iv", 79.06)}


def get_config(variant="all"):
    check_name("variant", variant, PUBLISHED)
    return photovoltaic(*PUBLISHED[variant])
