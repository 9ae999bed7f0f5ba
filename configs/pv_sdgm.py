"""SDGM on a simulated photovoltaic plant, with 300 labels; needs the extra [pv].

python run_experiment.py --model=pv_sdgm
python run_experiment.py --model=pv_sdgm --num_labels=100 --label_seed=1
"""

from tfhvae.configuration import photovoltaic


def get_config():
    config = photovoltaic()
    config.labels.num_labels = 300
    config.training.epochs = 40
    return config
