"""Networks on plain weights: a dict of float32 arrays that any process can read, and functions over such dicts.

`plain` is NumPy alone; `encoders` turn observations of any kind into features, in torch, which is imported where
it computes. Importing this room imports no torch.
"""

from multiserverrl.train.networks.plain import fresh, mlp, mlp_fields, new_mlp, numbers_of

__all__ = ["fresh", "mlp", "mlp_fields", "new_mlp", "numbers_of"]
