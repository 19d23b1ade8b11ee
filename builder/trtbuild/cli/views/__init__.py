"""How results look on standard output: values in, lines, rows and JSON values out. No command and no option."""
