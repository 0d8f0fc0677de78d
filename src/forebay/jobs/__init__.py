"""Jobs: requests that are answered later. Their records, their states, where they are kept."""
