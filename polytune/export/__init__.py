"""Export: a policy in the Hub's layout, proved in a fresh process, described by a card, pushed when asked."""
