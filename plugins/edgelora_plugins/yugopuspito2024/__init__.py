"""The algorithms of Yugopuspito et al., ICIC 2024."""
