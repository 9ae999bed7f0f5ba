"""Numbers for people: the table after a run, and the table of all runs in `results/`."""

from rich.console import Console
from rich.table import Table


def mean_and_error(summary, key, unit=""):
    """A mean of a summary with its standard error, where it has one: of one image there is none."""
    error = summary[f"{key}_stderr"]
    return f"{summary[key]:.2f}" + (f" ± {error:.2f}" if error is not None else "") + unit


def print_summary(summary):
    """Prints a run's summary as a table."""
    table = Table(
        title=f"{summary['model']} on {summary['dataset']}: {summary['status']}",
        title_justify="left",
        show_header=False,
    )
    table.add_row("protocol", summary["protocol"])
    images, all_images = summary["test/likelihood_images"], summary["test/images"]
    of_all = f" of {all_images}" * (images < all_images)
    table.add_row(
        f"log-likelihood (L_{summary['test/eval_samples']}, {images}{of_all} images)",
        mean_and_error(summary, "test/log_likelihood", " nats"),
    )
    protocol = f"; {summary['published/protocol']}" if summary["published/protocol"] else ""
    if summary["published/log_likelihood"] is not None:
        table.add_row(
            f"published ({summary['published/source']})",
            f"{summary['published/log_likelihood']:.2f} nats{protocol}",
        )
    if "test/error_percent" in summary:
        table.add_row(
            f"error of {summary['test/classifier']}, {summary['num_labels']} labels",
            mean_and_error(summary, "test/error_percent", " %"),
        )
        if "test/error_percent_q" in summary:  # CaGeM has two classifiers
            table.add_row("error of q(y|x)", mean_and_error(summary, "test/error_percent_q", " %"))
        if summary["published/error_percent"] is not None:
            table.add_row(
                f"published ({summary['published/source']})",
                f"{summary['published/error_percent']:.2f} %{protocol}",
            )
    table.add_row("ELBO", f"{summary['test/elbo']:.2f} nats")
    if summary.get("test/importance_samples", 1) > 1:
        samples = summary["test/importance_samples"]
        table.add_row(f"L_{samples}", f"{summary['test/importance_weighted']:.2f} nats")
    table.add_row("log p(x|z)", f"{summary['test/log_px']:.2f} nats")
    for name in summary:
        if name.startswith("test/kl/"):
            site = name.removeprefix("test/kl/")
            if f"test/active_units/{site}" not in summary:  # y has none
                table.add_row(f"KL {site}", f"{summary[name]:.2f} nats")
                continue
            active = f"{summary[f'test/active_units/{site}']} active units"
            by_kl = summary.get(f"test/active_units_kl/{site}")
            if by_kl is not None:
                active += f" by variance, {by_kl} by KL"
            table.add_row(f"KL {site}", f"{summary[name]:.2f} nats, {active}")
    dead = summary.get("collapse/dead_layers")
    if dead:
        never_woke = summary.get("collapse/never_woke_layers")
        if never_woke is not None:  # which summaries of an earlier version do not know
            dead = [f"{site} {'never woke' if site in never_woke else 'died'}" for site in dead]
        table.add_row("collapsed", f"{', '.join(dead)}: no active unit at the end of training")
    if summary.get("test/batch_statistics") is not None:
        table.add_row("batch statistics", summary["test/batch_statistics"])
    table.add_row("epochs", f"{summary['epochs']} (weights of epoch {summary['best_epoch']})")
    if summary.get("initial_run") is not None:
        table.add_row(
            "started from", f"{summary['initial_run']}, after {summary['initial_epochs']} epochs"
        )
    if summary["train_images_per_second"]:
        table.add_row("training", f"{summary['train_images_per_second']:,.0f} images/s")
    Console().print(table)


def print_comparison(names, rows):
    """Prints runs side by side: their names, and rows `(what, [cell of every run])`."""
    table = Table("", *names)
    for column in table.columns:
        column.overflow = "fold"
    for what, cells in rows:
        table.add_row(what, *cells)
    Console().print(table)
