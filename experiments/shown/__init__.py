"""How an answer is shown: in a terminal, in files, in a report and as figures."""
