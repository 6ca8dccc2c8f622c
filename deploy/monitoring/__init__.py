"""What watches the service: rules, alerts and dashboards."""
