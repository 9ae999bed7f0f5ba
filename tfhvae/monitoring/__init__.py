"""Condition monitoring of photovoltaic plants with the SDGM (Maaløe's thesis, chapter 6).

`simulate` and `logs` bring measurements as data frames, `samples` turns them into what a model takes,
`learning` trains, `studies` repeats the three experiments of the paper, `plant` is for use in a
plant. `python -m tfhvae.monitoring --help` lists the commands. Needs the extra `[pv]`.
"""
