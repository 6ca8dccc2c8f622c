"""The Grafana dashboards; `python -m deploy.monitoring.dashboards` writes their JSON."""
