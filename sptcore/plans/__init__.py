"""The paper's tables and figures as run plans: a TOML file says what is trained on what, one engine walks it.

`load_plan("table2")`, `reproduce(Request(plan, ...))`; `estimate` says beforehand what it would take.
"""

from sptcore.plans.schema import SCALES, Plan, load_plan, plan_names

__all__ = ["SCALES", "Plan", "load_plan", "plan_names"]
