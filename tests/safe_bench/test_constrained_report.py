"""Reports about return under a limit of the cost, from synthetic runs."""

import io

import pytest
from finished_runs import POLES, PUSH, VELOCITY, add_run
from rich.console import Console

from safe_bench.report import summary_table, write_report
from safe_bench.runs import EVALUATIONS, read_json, write_json


class TestCostLimit:
    @pytest.fixture
    def out(self, tmp_path):
        for seed in range(3):
            add_run(tmp_path, VELOCITY, "ppo", seed, 0, 20, cost=900.0)
            add_run(tmp_path, VELOCITY, "ppo-lag", seed, 0, 20, cost=24.0)
            add_run(tmp_path, VELOCITY, "cpo", seed, 0, 20, cost=10.0 if seed else 30.0)
        return tmp_path

    def test_page(self, out):
        folder = write_report(out, VELOCITY)
        text = (folder / "report.md").read_text()
        assert (
            "Final training cost within the limit of 25: PPOLag in every seed; CPO (2 of 3 seeds) in some seeds; "
            in text
        )
        assert "PPO in none." in text
        assert "2946.15 \N{PLUS-MINUS SIGN} 306.35" in text and "10,000,000" in text
        assert "Nothing is said about TRPOLag, SACLag" in text
        assert "Interactions needed" not in text and "Successes" not in text and "violation rate" not in text.lower()
        assert sorted(path.name for path in folder.glob("*.png")) == ["final.png", "learning.png"]

    def test_terminal(self, out):
        console = Console(width=80, record=True, file=io.StringIO())
        console.print(summary_table(out, VELOCITY))
        text = " ".join(console.export_text().split())
        assert "Final cost" in text and "2 of 3" in text and "Limit of the cost: 25" in text


def test_the_regret_is_compared_where_the_claim_is_about_it(tmp_path):
    for method, cost in (("transfer", 1.0), ("constrained", 4.0)):
        for seed in range(5):
            folder = add_run(tmp_path, POLES, method, seed, 0, 3, cost=cost)
            evaluate(folder, [0.0], [0.0])
            config = read_json(folder.path / "config.json")
            del config["definition"]["n_envs"]  # these episodes were lived one after the other
            write_json(folder.path / "config.json", config)
    text = (write_report(tmp_path, POLES) / "report.md").read_text()
    assert "smaller cost of all training episodes together (plus 1) than Constrained, from scratch" in text
    assert "that of Constrained, from scratch is 3.25 times it" in text  # 13 over 4
    assert "## Against the other methods: cost of all training" in text


def evaluate(folder, successes, costs):
    """Evaluations every 100 steps, after a perfect one of the baseline, which does not count."""
    rows = [("baseline", 0, 1.0, 0.0)]
    rows += [("agent", 100 * index, *row) for index, row in enumerate(zip(successes, costs, strict=True))]
    columns = ("agent", "timesteps", "success_rate", "cost")
    common = {"episodes": 5, "return": 0.0, "length": 10.0, "violation_rate": 0.0}
    EVALUATIONS.write(folder.path, [common | dict(zip(columns, row, strict=True)) for row in rows])


def test_interactions_until_a_success_rate_within_the_limit(tmp_path):
    evaluate(add_run(tmp_path, PUSH, "dual-agent-her", 0, 9, 0), [0.0, 0.9, 0.6, 0.9], [0.0, 9.0, 0.5, 0.0])
    evaluate(add_run(tmp_path, PUSH, "dual-agent-her", 1, 9, 0), [0.0, 0.3, 0.3, 0.3], [0.0, 0.0, 0.0, 0.0])
    evaluate(add_run(tmp_path, PUSH, "cpo", 0, 0, 9), [0.0, 0.0], [0.0, 9.0])
    add_run(tmp_path, PUSH, "safety-layer", 0, 9, 0)  # as older runs, without an evaluation at the start
    text = (write_report(tmp_path, PUSH) / "report.md").read_text()
    assert "| Method | 20% successes | 50% successes | 80% successes |" in text
    assert "| Dual agent, learned baseline | 100, 200 | 200 (1 of 2 seeds) | 300 (1 of 2 seeds) |" in text
    assert "| CPO | never | never | never |" in text
    assert "evaluations have 5 episodes each" in text
    needed = text.split("## Interactions needed")[1].split("##")[0]
    assert "Safety layer, scripted baseline" in text and "Safety layer" not in needed
    published = next(line for line in text.splitlines() if line.endswith("| figure 7 |") and "learned" in line)
    assert "| not given | not given | about 80 % | not given | figure 7 |" in published
