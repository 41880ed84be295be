"""MRC2014 and its older relatives."""
