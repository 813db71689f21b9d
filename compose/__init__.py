"""What stands around the services: Prometheus, Alertmanager and Grafana as code."""
