"""The service: gRPC at the front, Ray workers at the back, plans in between. Never imports JAX. Started as ``python -m jacloom_server``."""
