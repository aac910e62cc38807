"""The engine: functions as data become JAX functions, compiled derivative kernels and their prices; and the Ray actors around them."""
