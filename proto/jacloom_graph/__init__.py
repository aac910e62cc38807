"""Functions as data: the graph as Python values, its wire form, its identity and its checks. Needs numpy and protobuf, never JAX."""
