"""Others' conventions of names, gate orders and layouts, to fastrnn's parameters and back: without a framework."""
