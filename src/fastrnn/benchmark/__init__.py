"""`fastrnn bench`: what is measured, how, and how it is shown. Needs the `bench` extra (rich, matplotlib)."""
