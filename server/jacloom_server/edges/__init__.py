"""The gRPC services, each a thin servicer: decode, call a plain function, encode. Only here and in ``status`` are protobuf messages known."""
