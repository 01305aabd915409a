"""Reports from synthetic runs: what they say, that they need no other file, and what they do about gaps."""

import io
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from finished_runs import NAVIGATION, SPIDER, VELOCITY, add_run, example_figures
from rich.console import Console

from safe_bench import plots_risk
from safe_bench.document import estimate_text, number_text
from safe_bench.metrics import aggregate
from safe_bench.plots import final_numbers, learning_curves
from safe_bench.protocols import PROTOCOLS, get_protocol
from safe_bench.report import summary_table, write_report
from safe_bench.results import Rate, Results
from safe_bench.runs import EPISODES, STAGE_ENDS, RunError, read_json, write_json
from safe_bench.verdict import MEASURES, verdict

VOID = {"meta", "img", "br", "link"}


class PageChecker(HTMLParser):
    """Collects sources and text, and fails on tags that are not closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open_tags, self.sources, self.text, self.tags = [], [], [], []
        self.feed(page)
        self.close()
        assert self.open_tags == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for key, value in attrs if key in ("src", "href")]
        if tag not in VOID:
            self.open_tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open_tags.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read_page(folder: Path) -> PageChecker:
    return PageChecker((folder / "report.html").read_text())


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> tuple[Path, Path]:
    """Five seeds of Recovery RL, LR and an ablation with clearly different outcomes, and their report."""
    out = tmp_path_factory.mktemp("runs")
    for seed in range(5):
        add_run(out, NAVIGATION, "recovery-rl", seed, 15 + seed % 2, 1, figures=True)
        add_run(out, NAVIGATION, "lr", seed, 5 + seed % 2, 9)
        add_run(out, NAVIGATION, "recovery-rl-no-relabel", seed, 15 + seed % 3, 1)
    return out, write_report(out, NAVIGATION)


class TestReport:
    def test_default_folder_holds_everything(self, full):
        out, folder = full
        assert folder == out / NAVIGATION / "report"
        files = {path.name for path in folder.iterdir()}
        assert files >= {"report.md", "report.html", "final.png", "learning.png", "learning-ablations.png",
                         "failures.png", "maps.png", "calibration.png", "episode.png",
                         "episode-recovery-rl.gif"}  # fmt: skip
        assert not [name for name in files if name.endswith(".tmp")]

    def test_page_is_well_formed_and_needs_no_other_file(self, full):
        page = read_page(full[1])
        assert page.sources
        assert all(source.startswith("data:image/") for source in page.sources)
        assert not {"script", "link", "iframe"} & set(page.tags)

    def test_key_content(self, full):
        for text in ("".join(read_page(full[1]).text), (full[1] / "report.md").read_text()):
            assert get_protocol(NAVIGATION).claim in text
            assert "Recovery RL has a higher ratio" in text
            assert "Nothing is said about Unconstrained, RSPO, SQRL, RP, RCPO" in text
            assert "95 % bootstrap interval" in text
            assert "15 min" in text  # 15 runs of a minute
            assert "numpy 2.0.0" in text
            assert '"gamma_risk": 0.65' in text

    def test_pictures_of_the_markdown_exist(self, full):
        lines = [line for line in (full[1] / "report.md").read_text().splitlines() if line.startswith("![")]
        assert lines
        assert all((full[1] / line.split("](")[1].rstrip(")")).is_file() for line in lines)

    def test_table_numbers_by_hand(self, full):
        # LR: successes 5, 6, 5, 6, 5 (middle three: 5, 5, 6); 9 violations; 3 of 4 evaluation episodes succeed.
        row = next(line for line in (full[1] / "report.md").read_text().splitlines() if line.startswith("| LR |"))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[1:3] == ["5", "20"]
        assert cells[4].startswith("5.33 [")
        assert cells[5] == "9 [9, 9]"
        assert cells[7].startswith("45% [")  # 45 of 100
        assert cells[9] == "50 [50, 50]"  # 5 of 10 steps
        assert cells[10] == "0%"

    def test_terminal_table_of_five_seeds_fits_into_80_columns(self, tmp_path):
        for seed in range(5):
            add_run(tmp_path, NAVIGATION, "unconstrained", seed, 0, 299 - seed, n=300)
            add_run(tmp_path, NAVIGATION, "recovery-rl-fast-target", seed, 290 + seed, 0, n=300)
        console = Console(width=80, record=True, file=io.StringIO())
        console.print(summary_table(tmp_path, NAVIGATION))
        text = console.export_text()
        assert "Violations" in text and "violation" in text and "\N{HORIZONTAL ELLIPSIS}" not in text
        assert text.count("[") == text.count("]") >= 6

    def test_terminal_table(self, full):
        console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        console.print(summary_table(full[0], NAVIGATION))
        text = console.export_text()
        assert "Recovery RL" in text
        assert "75%" in text
        assert "20 deterministic" in " ".join(text.split())

    def test_chosen_folder(self, full, tmp_path):
        assert write_report(full[0], NAVIGATION, tmp_path / "here") == tmp_path / "here"
        assert (tmp_path / "here" / "report.html").is_file()

    def test_unwritable_folder_is_a_clear_error(self, full, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(RunError, match="cannot write the report"):
            write_report(full[0], NAVIGATION, tmp_path / "file" / "report")


class TestGaps:
    def test_one_seed_without_figures(self, tmp_path):
        add_run(tmp_path, NAVIGATION, "recovery-rl", 0, 10, 0)
        add_run(tmp_path, NAVIGATION, "lr", 0, 5, 4)
        text = (write_report(tmp_path, NAVIGATION) / "report.md").read_text()
        assert "too few seeds for a test" in text
        assert "an indication, not a test" in text
        assert "bootstrap" not in text
        assert "maps.png" not in text

    def test_only_one_method(self, tmp_path):
        add_run(tmp_path, NAVIGATION, "lr", 0, 5, 4)
        assert "No verdict" in (write_report(tmp_path, NAVIGATION) / "report.md").read_text()

    def test_no_finished_run(self, tmp_path):
        with pytest.raises(RunError, match="no finished run"):
            write_report(tmp_path, NAVIGATION)

    def test_unknown_protocol(self, tmp_path):
        with pytest.raises(ValueError, match="protocol must be one of"):
            write_report(tmp_path, "nonsense")

    def test_no_finished_episode(self, tmp_path):
        add_run(tmp_path, SPIDER, "sqrl", 0, 0, 0, n=0)
        add_run(tmp_path, SPIDER, "sac", 0, 0, 0)
        assert "No verdict" in (write_report(tmp_path, SPIDER) / "report.md").read_text()

    def test_warnings(self, tmp_path):
        add_run(tmp_path, NAVIGATION, "recovery-rl", 0, 10, 0)
        add_run(tmp_path, NAVIGATION, "recovery-rl", 1, 10, 0, commit="def-dirty")
        add_run(tmp_path, NAVIGATION, "lr", 0, 5, 4, preset="paper")
        unfinished = add_run(tmp_path, NAVIGATION, "rp", 3, 5, 4)
        (unfinished.path / "summary.json").unlink()
        page = "".join(read_page(write_report(tmp_path, NAVIGATION)).text)
        assert "different presets: paper; quick" in page
        assert "different commits: abc; def-dirty" in page
        assert "1 of 3 runs come from a working tree with uncommitted changes" in page
        assert "LR has no finished run of seed 1" in page
        assert "Unfinished and left out: rp seed-3" in page
        assert "different package versions" not in page

    def test_text_from_data_is_escaped(self, tmp_path):
        folder = add_run(tmp_path, NAVIGATION, "lr", 0, 5, 4)
        file = folder.path / "config.json"
        file.write_text(file.read_text().replace('"label": "LR"', '"label": "<b>L|R"'))
        report = write_report(tmp_path, NAVIGATION)
        assert "<b>" not in (report / "report.html").read_text()
        assert "| <b>L\\|R |" in (report / "report.md").read_text()


class TestVerdict:
    def found(self, out: Path, outcomes: dict[str, list[tuple[int, int]]], protocol: str = NAVIGATION) -> Results:
        for method, seeds in outcomes.items():
            for seed, (successes, violations) in enumerate(seeds):
                add_run(out, protocol, method, seed, successes, violations)
        return Results.read(out, protocol)

    @pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=lambda protocol: protocol.name)
    def test_every_claim_is_about_a_method_and_a_known_measure(self, protocol):
        assert protocol.subject in protocol.default_methods
        assert protocol.measure in (None, *MEASURES)

    def test_overlapping_intervals_are_not_a_win(self, tmp_path):
        mixed = [(10, 1), (10, 8), (12, 2), (9, 6), (11, 3)]
        text = verdict(self.found(tmp_path, {"recovery-rl": mixed, "lr": mixed[::-1]}))
        assert text[0].endswith("higher than none of 1 other methods; not resolved against LR.")
        assert any("the interval includes no difference" in sentence for sentence in text)

    def test_a_loss_is_called_one(self, tmp_path):
        text = verdict(self.found(tmp_path, {"recovery-rl": [(5, 9)] * 5, "lr": [(15, 0)] * 5}))
        assert "lower than LR" in text[0]

    def test_a_win_with_its_size(self, tmp_path):
        text = verdict(self.found(tmp_path, {"recovery-rl": [(11, 0)] * 5, "lr": [(5, 2)] * 5}))
        assert text[0].endswith("than LR.")
        assert text[2].startswith("6 times that of LR ([6, 6], 95 % bootstrap interval)")  # 12 / 1 over 6 / 3

    def test_few_seeds_are_named(self, tmp_path):
        text = verdict(self.found(tmp_path, {"recovery-rl": [(11, 0)] * 2, "lr": [(5, 2)] * 2}))
        assert "in every pair of seeds that were run" in text[0]
        assert "better in all 4 pairs of seeds; too few seeds for a test" in text[2]
        assert any("an indication, not a test" in sentence for sentence in text)

    def test_rates_are_compared_in_per_cent(self, tmp_path):
        text = verdict(self.found(tmp_path, {"sqrl": [(9, 1)] * 5, "sac": [(9, 4)] * 5}, SPIDER))
        assert "lower violation rate" in text[0]
        assert "difference to SAC 15 ([15, 15]" in text[2]  # 20 % - 5 %

    def test_where_a_seed_draws_the_environment_only_equal_seeds_are_compared(self, tmp_path):
        violations = [0, 2, 5, 7, 9]
        outcomes = {"mesa": [(0, v) for v in violations], "multi-task": [(0, 2 * v + 1) for v in violations] + [(0, 0)]}
        found = self.found(tmp_path, outcomes, "mesa/halfcheetah-disabled")
        text = verdict(found)
        assert text[0].endswith("smaller violation count (plus 1) than Multi-Task.")
        assert "that of Multi-Task is 2 times it ([2, 2], 95 % bootstrap interval)" in text[2]
        assert text[3] == "MESA, final return: higher than none of 1 other methods; not resolved against Multi-Task."
        report = (write_report(tmp_path, "mesa/halfcheetah-disabled") / "report.md").read_text()
        assert "## Against the other methods: final return" in report
        assert "better than the same seed of the second" in report

    def test_a_run_without_an_episode_is_not_one_without_violations(self, tmp_path):
        add_run(tmp_path, "mesa/halfcheetah-disabled", "mesa", 0, 0, 0, n=0)
        add_run(tmp_path, "mesa/halfcheetah-disabled", "multi-task", 0, 0, 5)
        text = verdict(Results.read(tmp_path, "mesa/halfcheetah-disabled"))
        assert text[0] == "No verdict: there is nothing to compare MESA with."

    def test_seeds_of_different_worlds_are_not_compared(self, tmp_path):
        for seed, (method, violations) in enumerate([("mesa", 0), ("multi-task", 9)]):
            add_run(tmp_path, "mesa/navigation1", method, seed, 0, violations)
        assert verdict(Results.read(tmp_path, "mesa/navigation1"))[0] == (
            "No verdict: there is nothing to compare MESA with."
        )
        add_run(tmp_path, "mesa/navigation1", "mesa", 1, 0, 1)
        found = Results.read(tmp_path, "mesa/navigation1")
        assert verdict(found)[0].endswith("than Multi-Task, in every seed that was run.")


class TestStages:
    def test_the_last_stage_is_compared_and_the_earlier_one_shown(self, tmp_path):
        add_run(tmp_path, SPIDER, "sqrl", 0, 10, 2)
        text = (write_report(tmp_path, SPIDER) / "report.md").read_text()
        assert "## While learning (stage finetune)" in text
        assert "| SQRL, eps 0.1 | pretrain | 20 | 10% [" in text

    def test_safety_data_are_shown_beside_the_training_episodes(self, tmp_path):
        for seed in range(2):
            add_run(
                tmp_path, SPIDER, "sqrl", seed, 10, 2, counts={"safety_steps": 400 + 20 * seed, "safety_violations": 7}
            )
        add_run(tmp_path, SPIDER, "sac", 0, 10, 2)
        text = (write_report(tmp_path, SPIDER) / "report.md").read_text()
        assert "| Steps of safety data | Violations in them |" in text
        assert next(line for line in text.splitlines() if "| pretrain |" in line and "SQRL" in line).endswith(
            "| 410 [400, 420] | 7 [7, 7] |"
        )
        assert next(line for line in text.splitlines() if line.startswith("| SAC | pretrain")).endswith("| - | - |")
        assert "in no other number of this report" in text

    def test_no_column_for_safety_data_without_any(self, tmp_path):
        add_run(tmp_path, SPIDER, "sqrl", 0, 10, 2)  # as older runs, that did not count them
        add_run(tmp_path, SPIDER, "sqrl", 1, 10, 2, counts={"safety_steps": 0, "safety_violations": 0})
        assert "afety data" not in (write_report(tmp_path, SPIDER) / "report.md").read_text()

    def test_time_steps_of_several_environments_count_from_the_start_of_the_stage(self, tmp_path):
        folder = add_run(tmp_path, VELOCITY, "ppo-lag", 0, 0, 5)
        rows = EPISODES.read(folder.path)
        for row in rows:  # eight environments side by side: an episode of 10 steps takes 80
            row["timesteps"] *= 8
        EPISODES.write(folder.path, rows)
        config, summary = (read_json(folder.path / f"{name}.json") for name in ("config", "summary"))
        config["definition"]["n_envs"] = 8
        config["budget"]["stages"][0]["steps"] *= 8
        write_json(folder.path / "config.json", config)
        write_json(folder.path / "summary.json", summary | {"timesteps": 1600})
        write_json(folder.path / STAGE_ENDS, [1600])
        (method,) = Results.read(tmp_path, VELOCITY).methods
        band = method.curve(lambda episodes: episodes["cost"])
        assert (band.x[0], band.x[-1]) == (80, 1600)

    def test_curves_of_stages_that_are_limited_by_steps_are_over_time_steps(self, tmp_path):
        for seed, n in ((0, 20), (1, 15)):
            add_run(tmp_path, SPIDER, "sqrl", seed, 0, 2, n=n)
        (method,) = Results.read(tmp_path, SPIDER).methods
        band = method.curve(lambda episodes: np.cumsum(episodes["violation"]), "finetune")
        assert method.axis("finetune") == "time step"
        assert (band.x[0], band.x[-1]) == (10, 150)  # from the start of the stage to the end of the shorter run
        assert band.point[[0, -1]].tolist() == [1, 2]


def test_the_caption_of_the_calibration_says_whose_future_it_is(tmp_path):
    def caption(**changes):
        write_json(folder.path / "figures.json", figures | {"calibration": figures["calibration"] | changes})
        return plots_risk.calibration_caption(Results.read(tmp_path, NAVIGATION).methods)

    folder, figures = add_run(tmp_path, NAVIGATION, "recovery-rl", 0, 10, 0), example_figures()
    assert "under the unfiltered task policy, over" in caption() and "anywhere" not in caption()
    add_run(tmp_path, NAVIGATION, "lr", 0, 10, 0, figures=True)  # an older run: from the task's start
    text = caption(filtered=True, spread_starts=True)
    assert "unfiltered task policy (Recovery RL: the filtered policy)" in text
    assert "In some runs every second episode starts anywhere" in text


def test_pooled_calibration_weighs_bins_by_steps():
    parts = [
        {"bins": [{"n": 1, "predicted": 0.12, "observed": 0.0}]},
        {"bins": [{"n": 3, "predicted": 0.16, "observed": 0.4}, {"n": 2, "predicted": 1.0, "observed": 1.0}]},
    ]
    n, predicted, observed = plots_risk.pooled_bins(parts)
    assert n.tolist() == [4, 2]
    assert predicted == pytest.approx([0.15, 1.0])
    assert observed == pytest.approx([0.3, 1.0])


def test_numbers_as_text():
    assert [number_text(value) for value in (0.0, 3.0, 0.1234, 12.345, 1234.5, float("nan"))] == [
        "0", "3", "0.123", "12.3", "1,234", "-",
    ]  # fmt: skip
    assert estimate_text(aggregate([1.0, 2.0])) == "1.5 [1, 2]"
    assert estimate_text(aggregate([2.0])) == "2"
    assert estimate_text(Rate(0, 20)) == "0% [0%, 16.1%]"
    assert estimate_text(Rate(0, 0)) == "-"


def test_reports_can_be_written_again(tmp_path):
    add_run(tmp_path, NAVIGATION, "lr", 0, 5, 4)
    first = (write_report(tmp_path, NAVIGATION) / "report.md").read_text()
    assert (write_report(tmp_path, NAVIGATION) / "report.md").read_text() == first
    shutil.rmtree(tmp_path / NAVIGATION / "report")


@pytest.mark.parametrize("successes", [0, 3])
def test_pictures_and_tables_show_successes_only_where_there_are_some(tmp_path, successes):
    for seed in range(2):
        folder = add_run(tmp_path, "mesa/halfcheetah-disabled", "mesa", seed, successes, 12)
        rates = {"violations": [1] * 4, "successes": [0] * 4, "episodes": 4, "return": 7.0, "cost": 1.0}
        write_json(folder.path / "evaluation.json", {"deterministic": rates, "stochastic": rates})
    found = Results.read(tmp_path, "mesa/halfcheetah-disabled")
    curves, points = learning_curves(found, found.methods), final_numbers(found, found.methods)
    titles = [axes.get_title(loc="left") for axes in (*curves.axes, *points.axes)]
    assert [title.split()[0].rstrip(",") for title in titles] == (
        ["Successes", "Violations", "Ratio", "Return", "Successes", "Violations", "Ratio"]
        if successes
        else ["Violations", "Return", "Violations", "Final"]
    )
    assert points.axes[titles[len(curves.axes) :].index("Violations")].get_xlim()[1] > 12.4  # the points are inside
    terminal = summary_table(tmp_path, "mesa/halfcheetah-disabled")
    text = (write_report(tmp_path, "mesa/halfcheetah-disabled") / "report.md").read_text()
    told = [column.header for column in terminal.columns if "ucc" in str(column.header) or column.header == "Ratio"]
    assert told == (["Successes", "Ratio", "Eval success"] if successes else [])
    assert ("| Successes |" in text) == ("Success, stochastic" in text) == ("(S+1)" in text) == bool(successes)
    assert ("ratio" in str(terminal.caption)) == bool(successes)
