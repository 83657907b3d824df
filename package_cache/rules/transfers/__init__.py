"""How one file is downloaded from several sources that cannot be trusted."""
