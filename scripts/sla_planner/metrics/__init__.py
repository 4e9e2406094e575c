"""Eyes and mouth: the only room that talks to Prometheus or scrapes `/metrics`, and our own exporter."""
