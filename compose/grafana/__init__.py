"""Grafana's data source and dashboards as code."""
