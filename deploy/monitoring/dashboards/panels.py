"""What the dashboards have in common: their variables, and panels of one look."""

from typing import Final

from grafana_foundation_sdk.builders import stat, timeseries
from grafana_foundation_sdk.builders.common import (
    GraphThresholdsStyleConfig,
    ReduceDataOptions,
    VizLegendOptions,
)
from grafana_foundation_sdk.builders.dashboard import (
    AnnotationQuery,
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
    ThresholdsConfig,
)
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.models.common import (
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)

TAG: Final = "tidegate"
SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
# Of the 24 columns of Grafana's grid.
_WIDTH: Final = 8
_STAT_WIDTH: Final = 4
_HEIGHT: Final = 8
_STAT_HEIGHT: Final = 4
# Every query is of one job, and of the namespaces that are chosen.
SCOPE: Final = 'job="$job",namespace=~"$namespace"'


def new_dashboard(name: str, description: str) -> Dashboard:
    """An empty dashboard with the variables that every query uses, and links to the others.

    Args:
        name: One word; its address is made of it.
        description: What it shows.
    """
    return (
        Dashboard(f"Tidegate: {name}")
        .uid(f"tidegate-{name}")
        .description(description)
        .tags([TAG])
        .readonly()
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(
            DashboardLink("Tidegate")
            .type(DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
        )
        .with_variable(DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(_variable("job", "label_values(service_build_info, job)"))
        .with_variable(
            _variable("namespace", 'label_values(service_build_info{job="$job"}, namespace)')
            .multi(True)
            .include_all(True)
            # Outside of Kubernetes there is no such label.
            .all_value(".*")
        )
        .annotation(
            AnnotationQuery()
            .name("Alerts")
            .datasource(SOURCE)
            .enable(True)
            .icon_color("red")
            .expr('ALERTS{alertstate="firing",alertname=~"Tidegate.+"}')
        )
    )


def graph(
    title: str,
    description: str,
    *queries: tuple[str, str],
    unit: str = "short",
    limits: tuple[float, ...] = (),
) -> timeseries.Panel:
    """A panel with lines.

    Args:
        title: What it shows.
        description: What to conclude from it.
        queries: Pairs of PromQL and the name of each line.
        unit: Of the values, as Grafana names it.
        limits: Values that are drawn as lines: those of alerts.
    """
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .height(_HEIGHT)
        .span(_WIDTH)
        .fill_opacity(10)
        .legend(
            VizLegendOptions()
            .display_mode(LegendDisplayMode.TABLE)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
        )
    )
    if limits:
        style = GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED)
        panel.thresholds(_thresholds(limits)).thresholds_style(style)
    for number, (query, legend) in enumerate(queries):
        panel.with_target(_query(number, query).legend_format(legend))
    return panel


def figure(
    title: str, description: str, query: str, *, unit: str = "short", limits: tuple[float, ...] = ()
) -> stat.Panel:
    """A panel with one number, of now.

    Args:
        title: What it shows.
        description: What to conclude from it.
        query: PromQL for one series.
        unit: Of the value.
        limits: From which values on it is orange, then red.
    """
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .height(_STAT_HEIGHT)
        .span(_STAT_WIDTH)
        .thresholds(_thresholds(limits))
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(_query(0, query).instant())
    )


def rate(metric: str, *labels: str, scope: str = SCOPE) -> str:
    """How fast a counter rises a second, added up by some labels."""
    return f"sum by ({', '.join(labels)}) (rate({metric}{{{scope}}}[$__rate_interval]))"


def increase(metric: str, window: str, *labels: str, scope: str = SCOPE) -> str:
    """How much a counter has risen in a window, added up by some labels."""
    return f"sum by ({', '.join(labels)}) (increase({metric}{{{scope}}}[{window}]))"


def quantile(share: float, histogram: str, *labels: str, scope: str = SCOPE) -> str:
    """What a share of a histogram's observations stays below, of all instances together."""
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', 'le', *labels, scope=scope)})"


def _variable(name: str, query: str) -> QueryVariable:
    return (
        QueryVariable(name)
        .label(name.capitalize())
        .datasource(SOURCE)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
    )


def _query(number: int, query: str) -> Dataquery:
    return Dataquery().expr(query).datasource(SOURCE).ref_id(chr(ord("A") + number))


def _thresholds(limits: tuple[float, ...]) -> ThresholdsConfig:
    colors = ("orange", "red")
    # The first has no value: it is that of everything below.
    steps = [Threshold(value=None, color="green")]
    steps += [Threshold(value=v, color=c) for v, c in zip(limits, colors, strict=False)]
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
