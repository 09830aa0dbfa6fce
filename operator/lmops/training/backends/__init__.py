"""What runs a distributed training: a backend renders its workload, and reads back how that fares."""
