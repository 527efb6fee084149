"""What turns a plan into an adapter; every module here may import torch."""
