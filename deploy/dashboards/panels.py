"""The parts of a dashboard: panels, rows and variables with the same style everywhere.

Every panel has a question as its description, and may name a section of the runbooks.
"""

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
    VariableHide,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DATA_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")

GREEN, YELLOW, RED = "green", "yellow", "red"


def new(name, title, question, time_from):
    """Returns an empty dashboard. `name` is its file's name too, and part of its address."""
    return (
        dashboard.Dashboard(f"Redeliver: {title}")
        .uid(f"redeliver-{name}")
        .description(question)
        .tags(["redeliver"])
        .time(time_from, "now")
        .timezone("browser")
        .refresh("1m")
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("Redeliver's dashboards")
            .type(DashboardLinkType.DASHBOARDS)
            .tags(["redeliver"])
            .keep_time(True)
        )
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus")
        )
        .with_variable(
            dashboard.TextBoxVariable("runbooks")
            .label("Address of the runbooks")
            .default_value("/public/redeliver/runbooks.md")
            .hide(VariableHide.HIDE_VARIABLE)
        )
    )


def choice(name, label, query):
    """Returns a variable with the values of a label, of which any number may be chosen."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(DATA_SOURCE)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def number(title, question, query, unit="short", limits=(), runbook=None, width=4):
    """Returns a panel with one number. `limits` are pairs of a value and the colour from there."""
    target = _target("A", query, "")
    graph = BigValueGraphMode.AREA
    # A figure of the whole chosen time is computed once, and has no line.
    if "$__range" in query:
        target, graph = target.instant(), BigValueGraphMode.NONE
    panel = (
        stat.Panel()
        .color_mode(BigValueColorMode.VALUE)
        .graph_mode(graph)
        .with_target(target)
    )
    return _finish(panel, title, question, unit, limits, runbook, width, 4)


def lines(
    title, question, queries, unit="short", limits=(), runbook=None, width=12, stacked=False,
    exemplars=False,
):
    """Returns a panel with lines over time. `queries` are pairs of a query and its legend."""
    panel = (
        timeseries.Panel()
        .line_width(1)
        .fill_opacity(30 if stacked else 8)
        .show_points(VisibilityMode.NEVER)
        .min(0)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(
            common.VizTooltipOptions()
            .mode(TooltipDisplayMode.MULTI)
            .sort(SortOrder.DESCENDING)
        )
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    if limits:
        panel.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED)
        )
    for letter, (query, legend) in zip("ABCDEF", queries):
        panel.with_target(_target(letter, query, legend).exemplar(exemplars))
    return _finish(panel, title, question, unit, limits, runbook, width, 8)


def rows_of(title, question, label, columns, width=24):
    """Returns a table with a row for each value of a label. `columns` are a name, an instant query
    and a unit."""
    panel = table.Panel().show_header(True)
    for letter, (_, query, _) in zip("ABCDEF", columns):
        target = _target(letter, query, "").instant().format(PromQueryFormat.TABLE)
        panel.with_target(target)
    names = {f"Value #{letter}": column[0] for letter, column in zip("ABCDEF", columns)}
    panel.with_transformation(DataTransformerConfig(id_val="merge", options={}))
    panel.with_transformation(
        DataTransformerConfig(
            id_val="organize",
            options={"excludeByName": {"Time": True}, "renameByName": {label: label, **names}},
        )
    )
    for name, _, unit in columns:
        panel.override_by_name(name, [DynamicConfigValue(id_val="unit", value=unit)])
    return _finish(panel, title, question, "short", (), None, width, 9)


def row(title):
    """Returns the title of a row of panels."""
    return dashboard.Row(title)


def _target(letter, query, legend):
    return (
        prometheus.Dataquery()
        .ref_id(letter)
        .expr(" ".join(query.split()))
        .legend_format(legend)
        .datasource(DATA_SOURCE)
    )


def _finish(panel, title, question, unit, limits, runbook, width, height):
    steps = [Threshold(value=None, color=GREEN)]
    steps += [Threshold(value=value, color=color) for value, color in limits]
    panel = (
        panel.title(title)
        .description(question)
        .datasource(DATA_SOURCE)
        .unit(unit)
        .span(width)
        .height(height)
        .thresholds(
            dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
        )
    )
    if runbook:
        panel.links(
            [
                dashboard.DashboardLink("What to do")
                .type(DashboardLinkType.LINK)
                .url(f"${{runbooks}}#{runbook}")
                .target_blank(True)
            ]
        )
    return panel
