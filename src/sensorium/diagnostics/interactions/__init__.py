"""How two inputs tell a label: both the same, each something of its own, or only together."""
