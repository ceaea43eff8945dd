"""The running service: its page and API, and learning from what people say of incidents."""
