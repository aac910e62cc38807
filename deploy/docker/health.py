"""Asks the service at JACLOOM_ADDRESS for its health: exit status 0 if it is serving. JACLOOM_TLS names its authorities, if it uses TLS."""

import os
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

address, authorities = os.environ["JACLOOM_ADDRESS"], os.environ.get("JACLOOM_TLS")
if authorities:
    channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(Path(authorities).read_bytes()))
else:
    channel = grpc.insecure_channel(address)
try:
    status = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5).status
except grpc.RpcError as error:
    sys.exit(f"{address} does not answer: {error.code().name}")
sys.exit(None if status == health_pb2.HealthCheckResponse.SERVING else f"{address} is not serving")
