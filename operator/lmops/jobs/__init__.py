"""What every job goes through, whatever its runs make: a ledger, stages, attempts, and an end."""
