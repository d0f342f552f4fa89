"""How a stage starts, stops and speaks; what it needs of the machine; many processes for one stage."""
