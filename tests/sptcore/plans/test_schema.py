"""Plans: those of the package name what exists; what is misspelt is refused with a suggestion."""

from __future__ import annotations

import pytest

from sptcore.errors import UsageError
from sptcore.models.variants import backbone_config
from sptcore.plans.schema import SCALES, load_plan, parse_plan, plan_names
from sptcore.tasks import TASKS
from tests.sptcore.plans.miniplan import MINI

PLANS = ["table1", "table2", "table3", "table4", "table5", "table6", "table7", "fig4", "fig5"]


def test_every_table_and_figure_has_a_plan() -> None:
    assert plan_names() == PLANS


@pytest.mark.parametrize("name", PLANS)
def test_plans_name_models_tasks_and_settings_that_exist(name: str) -> None:
    plan = load_plan(name)
    assert set(plan.scales) == set(SCALES)
    for scale, row, config in plan.configs():
        backbone = backbone_config(config.model, **config.backbone_overrides)
        assert config.task in TASKS, (scale, row.key)
        assert config.model.endswith("-nano") == (scale == "smoke"), (scale, row.key)
        assert scale == "smoke" or row.size == config.model.rpartition("-")[2]
        assert backbone.num_spa_blocks >= 0
    for scale in SCALES:
        assert plan.rows_at(scale)
        assert plan.scale(scale).differs, "a scale says what is not the paper's"


def test_the_figures_of_the_paper_are_plausible_and_have_a_source() -> None:
    for name in PLANS:
        for row in load_plan(name).rows:
            assert bool(row.paper) <= bool(row.paper_source)
            assert all(0 < value < 1000 for value in row.paper.values())


def test_the_paper_s_own_counts_follow_from_its_ratios() -> None:
    """The totals of Table 2 are those of Eq. 9 at the ratios the plan names (ALGORITHM of the paper, section 5)."""
    from sptcore.plans.estimate import stand_in_spec
    from sptcore.plans.outcome import whole_macs

    plan = load_plan("table2")
    for row in plan.rows:
        if row.paper_ratio is not None:
            config = plan.config(row, "paper")
            spec = stand_in_spec(config, plan.data[row.data].model_copy(update={"source": "coco"}))
            macs = whole_macs(spec, (1280, 800), row.paper_ratio, training=True)[1] / 1e9
            assert macs == pytest.approx(row.paper["macs_g"], rel=0.002)


@pytest.mark.parametrize(
    ("old", "new", "message", "hint"),
    [
        ('key = "spt"', 'kee = "spt"', "rows.1.kee", "'key'"),
        ("max_ratio", "max_ration", "unknown key 'data.small.max_ration'", "'max_ratio'"),
        ('data = "small"\npaper =', 'data = "smal"\npaper =', "no data set 'smal'", "'small'"),
        ('rows = ["spt"]', 'rows = ["sptt"]', "no row 'sptt'", "'spt'"),
        ('"label.mAP" = 22.4', '"label.mAPP" = 22.4', "no column 'label.mAPP'", "'label.mAP'"),
        ('paper_source = "nowhere"\n', "", "without a source", None),
        ('key = "spt"', 'key = "swin"', "same key", None),
        ("[scales.small.recipes.multilabel]", "[scales.small.recipes.multilabell]", "recipe", None),
        ("title = \"Mini\"", "title = Mini", "not TOML", None),
    ],
)  # fmt: skip
def test_what_leads_nowhere_is_refused(old: str, new: str, message: str, hint: str | None) -> None:
    assert old in MINI
    with pytest.raises(UsageError) as caught:
        parse_plan(MINI.replace(old, new, 1), "mini", where="mini.toml")
    assert message in caught.value.message
    assert caught.value.where == "mini.toml"
    assert hint is None or hint in (caught.value.hint or "")


def test_a_setting_that_does_not_exist_is_refused_with_the_row() -> None:
    plan = parse_plan(MINI.replace("paper_ratio = 0.25", "settings = { drop_pat = 0.1 }"), "mini")
    with pytest.raises(UsageError, match="unknown setting 'drop_pat'") as caught:
        list(plan.configs())
    assert caught.value.where == "mini, row spt"
    assert "drop_path" in (caught.value.hint or "")


def test_a_plan_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="no plan 'tabel2'") as caught:
        load_plan("tabel2")
    assert "table2" in (caught.value.hint or "")


def test_sizes_decide_which_rows_a_scale_has() -> None:
    plan = load_plan("table1")
    assert [row.key for row in plan.rows_at("smoke")] == ["swin-t", "dynamicswin-t", "spt-t"]
    assert len(plan.rows_at("paper")) == 9
    assert plan.variant(plan.rows[0], "smoke") == "swin-nano"
    assert plan.variant(plan.rows[0], "paper") == "swin-t"
