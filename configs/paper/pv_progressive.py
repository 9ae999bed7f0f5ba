"""SDGM on a photovoltaic plant whose conditions become known one after the other (Maaløe et al.
2018, section IV-C): a figure, no number.

    python run_experiment.py --config=configs/paper/pv_progressive.py:3

Variants: how many conditions are known, 1 to 6, in the order PS7, RS4, PS50, RS8, PSRS, PS75. One
draw and the SDGM only; with the MLP, the bound of known and unseen conditions and the detection of
the latter, `python -m tfhvae.monitoring experiment progressive`. Time on two cores: one minute.
Expected: 60 % error with three conditions known, as most test rows are of conditions that are not;
63 % with one, 34 % with six.
"""

from tfhvae.configuration import check_name, photovoltaic

VARIANTS = tuple(str(number) for number in range(1, 7))


def get_config(variant="6"):
    check_name("variant", variant, VARIANTS)
    config = photovoltaic()
    config.dataset.split = f"known_{variant}"
    config.labels.choice = "marked"  # 500 of every known condition, one of every other
    config.published.source = "Maaløe et al. 2018"
    config.published.protocol = "a figure, no number; measured rows there, simulated ones here"
    return config
