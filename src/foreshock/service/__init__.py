"""The running service: reads metrics, keeps incidents, serves page and API, learns from what people say."""
