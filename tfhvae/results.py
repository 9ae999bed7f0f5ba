"""The record of what was measured: copies of runs under `results/`, and their table published | ours.

python -m tfhvae.results add RUN_FOLDER [results]
python -m tfhvae.results table [results]
"""

import os
import shutil
import sys

from tfhvae import files
from tfhvae.errors import RunError

RECORD = ("summary.json", "config.json", "metrics.csv")
_HEADER = """# Results

Test log-likelihoods are means in nats over the whole test set, by importance sampling with S samples;
± is the standard error over test images. Protocols differ by up to 3.5 nats: compare only within
one. Each row is a folder beside this page, with its configuration, curve and figures; the command
that repeats it stands below the table. This page is generated: `python -m tfhvae.results table`.

| model | data | ours | S | ELBO | published | source | epochs | seed | commit |
|---|---|---|---|---|---|---|---|---|---|
"""


def add(run_folder, results):
    """Copies a run's record and figures to `results/NAME`, NAME being the run folder's.

    Raises:
      RunError: if the run was not evaluated.
    """
    if not os.path.exists(os.path.join(run_folder, "summary.json")):
        raise RunError(f"{run_folder} has no summary.json: evaluate it first, with --mode=evaluate")
    target = os.path.join(results, os.path.basename(os.path.normpath(run_folder)))
    os.makedirs(target, exist_ok=True)
    for name in RECORD:
        shutil.copy(os.path.join(run_folder, name), target)
    figures = os.path.join(run_folder, "figures")
    if os.path.isdir(figures):
        shutil.copytree(figures, os.path.join(target, "figures"), dirs_exist_ok=True)
    return target


def table(results):
    """Writes `results/README.md` from the summaries below `results`, and returns its text."""
    records = []
    for name in sorted(os.listdir(results)):
        path = os.path.join(results, name, "summary.json")
        if os.path.exists(path):
            records.append((name, files.read_json(path)))
    if not records:
        raise RunError(f"there is no run below {results}: add one with 'add RUN_FOLDER'")
    rows = [_row(name, summary) for name, summary in records]
    text = _HEADER + "\n".join(rows) + "\n\n" + "\n".join(_details(*record) for record in records)
    notes = os.path.join(results, "NOTES.md")
    if os.path.exists(notes):
        with open(notes, encoding="utf-8") as file:
            text += "\n" + file.read()
    files.write_text(os.path.join(results, "README.md"), text)
    return text


def _row(name, summary):
    published = summary["published/log_likelihood"]
    cells = (
        f"[{summary['model']}]({name})",
        summary["dataset"],
        with_error(summary),
        summary["test/eval_samples"],
        f"{summary['test/elbo']:.2f}",
        "–" if published is None else f"{published:.2f}",
        summary["published/source"]
        + (f" ({summary['published/protocol']})" if summary["published/protocol"] else ""),
        f"{summary['epochs']}, {summary['status']}; weights of epoch {summary['best_epoch']}",
        summary["seed"],
        summary["commit"],
    )
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _details(name, summary):
    sites = [key.removeprefix("test/kl/") for key in summary if key.startswith("test/kl/")]
    latent = "; ".join(
        f"KL {site} {summary[f'test/kl/{site}']:.2f} nats, {summary[f'test/active_units/{site}']} active units"
        for site in sites
    )
    return (
        f"## {name}\n\n"
        f"    {summary['command']}\n\n"
        f"Protocol: {summary['protocol']}. log p(x|z) {summary['test/log_px']:.2f} nats; {latent}. "
        f"Trained for {summary['train_seconds'] / 60:.0f} minutes "
        f"({summary['train_images_per_second']:,.0f} images/s).\n\n"
        f"![samples]({name}/figures/samples.png) ![curves]({name}/figures/training_curves.png)\n"
    )


def with_error(summary):
    """Log-likelihood ± standard error, for people."""
    error = summary["test/log_likelihood_stderr"]
    return f"{summary['test/log_likelihood']:.2f}" + (
        f" ± {error:.2f}" if error is not None else ""
    )


def main(arguments):
    if len(arguments) in (2, 3) and arguments[0] == "add":
        print(add(arguments[1], *(arguments[2:] or ["results"])))
    elif len(arguments) in (1, 2) and arguments[0] == "table":
        print(table(*(arguments[1:] or ["results"])))
    else:
        raise RunError(
            f"expected 'add RUN_FOLDER [results]' or 'table [results]'. Received: {' '.join(arguments) or 'nothing'}"
        )


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (RunError, OSError) as mistake:
        sys.exit(f"error: {mistake}")
