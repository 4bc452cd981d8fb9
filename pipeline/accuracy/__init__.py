"""How well a model does its work: data sets, metrics, and scores as text. Knows no device and no evaluator."""
